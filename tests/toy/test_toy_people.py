"""The pedestrians keep their promises: same numbers, same bytes; people and cameras differ; names are like Market's."""

from functools import cache

import numpy as np
import pytest
import torch

from da_lightning.errors import DataError
from da_lightning.reid.datasets.base import DISTRACTOR, JUNK
from da_lightning.reid.datasets.toy import ToyPeople
from da_lightning.toy.people import STYLES, render_person

PERSONS, CAMERAS, VIEWS = 30, 4, 2


@cache
def crowd(network: str) -> np.ndarray:
    """Pictures [person, camera, view, H, W, 3] of numbers from 1."""
    people, cameras = range(1, PERSONS + 1), range(1, CAMERAS + 1)
    return np.array([[[render_person(p, c, v, network) for v in range(VIEWS)] for c in cameras] for p in people])


def toy(network: str = "station", **options: object) -> ToyPeople:
    return ToyPeople(network, **{"persons": 12, "distractors": 5, "junk": 3, **options})


@pytest.mark.parametrize("network", STYLES)
def test_the_same_numbers_give_the_same_bytes(network):
    for p, c, v in ((PERSONS, 4, 1), (1, 1, 0)):  # out of order: no state may leak from one call to the next
        assert render_person(p, c, v, network).tobytes() == crowd(network)[p - 1, c - 1, v].tobytes()
    assert len({image.tobytes() for image in crowd(network).reshape(-1, 64 * 32 * 3)}) == PERSONS * CAMERAS * VIEWS


@pytest.mark.parametrize("network", STYLES)
@pytest.mark.parametrize("size", [(64, 32), (128, 64), (97, 51)])
def test_size_and_type(network, size):
    image = render_person(3, 2, 1, network, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8


def test_the_networks_show_different_people():
    street, station = (crowd(network)[:, :, :, 20:34, 12:20].mean((1, 2, 3, 4)) for network in STYLES)  # the chests
    street, station = street - street.mean(0), station - station.mean(0)
    assert abs(np.corrcoef(street.ravel(), station.ravel())[0, 1]) < 0.4


@pytest.mark.parametrize("network", STYLES)
def test_a_person_keeps_her_clothes_but_not_her_pose(network):
    chests = crowd(network)[..., 20:34, 12:20, :].mean((3, 4))  # [person, camera, view, 3]
    within = chests.std(2).mean()
    between = chests.mean(2).std(0).mean()
    assert between > 1.5 * within
    poses = crowd(network).astype(float)
    assert np.abs(poses[:, :, 0] - poses[:, :, 1]).mean() > 10


@pytest.mark.parametrize("network", STYLES)
def test_colour_alone_does_not_identify(network):
    chests = crowd(network)[:, 0, :, 20:34, 12:20].mean((2, 3))
    distance = np.linalg.norm(chests[:, None, 0] - chests[None, :, 1], axis=-1)
    assert 1 / PERSONS < (distance.argmin(1) == np.arange(PERSONS)).mean() < 0.6


def test_cameras_of_the_station_are_darker_and_further_apart():
    means = {network: crowd(network).mean((0, 2, 3, 4)) for network in STYLES}  # [camera, 3]
    tints = {network: mean / mean.mean(1, keepdims=True) for network, mean in means.items()}
    apart = {n: min(np.abs(a - b).max() for i, a in enumerate(t) for b in t[:i]) for n, t in tints.items()}
    assert means["station"].mean() < 0.75 * means["street"].mean()
    assert apart["station"] > max(0.05, apart["street"])


def test_bad_boxes_miss_the_person():
    good, bad = (
        np.array([render_person(p, 1, 0, "street", bad_box=box) for p in range(1, 31)]).astype(float)
        for box in (False, True)
    )
    assert np.abs(good - bad)[:, 10:50, 10:22].mean() > 25


def test_items():
    for labelled in (True, False):
        data = toy(labelled=labelled)
        item = data[5]
        assert item["image"].dtype == torch.uint8 and item["image"].shape == (3, 64, 32)
        assert item["camera"] == data.cameras[5] and ("person" in item) == labelled
        assert not labelled or item["person"] == data.persons[5]
        assert len(data.persons) == (len(data) if labelled else 0)
    assert torch.equal(toy()[5]["image"], toy(labelled=False)[5]["image"])


def test_everybody_passes_two_to_all_cameras():
    data = toy(persons=40, first_person=101, cameras=3)
    seen = {p: {c for c, q in zip(data.cameras, data.persons, strict=True) if q == p} for p in data.persons}
    assert sorted(seen) == list(range(101, 141))
    assert {len(cameras) for cameras in seen.values()} == {2, 3}
    assert len(data) == 4 * sum(map(len, seen.values()))


def test_names_are_unique_and_read_like_markets():
    names = [data.name(i) for data in (toy(part="query"), toy(part="gallery")) for i in range(len(data))]
    assert len(set(names)) == len(names)
    assert names[0].startswith("0001_c") and names[0].endswith("s1_000000_00")
    assert any(name.startswith("0000_c") for name in names) and any(name.startswith("-1_c") for name in names)


def test_query_and_gallery():
    query, gallery = toy(part="query"), toy(part="gallery")
    shown = {p: {c for c, q in zip(gallery.cameras, gallery.persons, strict=True) if q == p} for p in gallery.persons}
    assert all(shown[p] - {c} for p, c in zip(query.persons, query.cameras, strict=True))
    pairs = list(zip(query.persons, query.cameras, strict=True))
    assert len(set(pairs)) == len(pairs)
    assert gallery.persons.count(DISTRACTOR) == 5 and gallery.persons.count(JUNK) == 3
    assert not {DISTRACTOR, JUNK} & {*query.persons, *toy().persons}
    pixels = [{data[i]["image"].numpy().tobytes() for i in range(len(data))} for data in (query, gallery)]
    assert len(pixels[0] | pixels[1]) == len(query) + len(gallery)


def test_sets_with_separate_persons_have_nothing_in_common():
    train, test = toy(), toy(first_person=1001)
    assert not set(train.persons) & set(test.persons)
    images = {data[i]["image"].numpy().tobytes() for data in (train, test) for i in range(len(data))}
    assert len(images) == len(train) + len(test)


@pytest.mark.parametrize("options", [{"cameras": 1}, {"images_per_camera": 1}])
def test_nobody_to_be_found_again(options):
    with pytest.raises(DataError, match="at least 2"):
        toy(**options)
