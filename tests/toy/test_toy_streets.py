"""The street world keeps its promises: same seed, same bytes; every class occurs; two looks that differ."""

from functools import cache

import numpy as np
import pytest

from da_lightning.toy.streets import CLASSES, STYLES, render_street

RARE = ("fence", "pole", "sign", "person", "bus")


@cache
def sixty(style: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*(render_street(seed, style) for seed in range(60)), strict=True)
    return np.stack(images), np.stack(labels)


def shares(style: str) -> dict[str, float]:
    counts = np.bincount(sixty(style)[1].ravel(), minlength=len(CLASSES))
    return dict(zip(CLASSES, (counts / counts.sum()).tolist(), strict=True))


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_gives_the_same_bytes(style):
    images, labels = sixty(style)
    for seed in (59, 0):  # out of order: no state may leak from one call to the next
        image, label = render_street(seed, style)
        assert image.tobytes() == images[seed].tobytes()
        assert label.tobytes() == labels[seed].tobytes()


@pytest.mark.parametrize("style", STYLES)
def test_seeds_give_different_scenes(style):
    images, labels = sixty(style)
    assert len({image.tobytes() for image in images}) == 60
    assert len({label.tobytes() for label in labels}) == 60


def test_the_styles_are_unpaired():
    game, camera = render_street(7, "game"), render_street(7, "camera")
    assert not np.array_equal(game[0], camera[0])
    assert not np.array_equal(game[1], camera[1])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(96, 128), (64, 160), (81, 99)])
def test_size_and_types(style, size):
    image, label = render_street(3, style, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8


@pytest.mark.parametrize("style", STYLES)
def test_every_class_occurs_and_no_other_id(style):
    assert set(np.unique(sixty(style)[1]).tolist()) == set(range(len(CLASSES)))


@pytest.mark.parametrize("style", STYLES)
def test_class_shares(style):
    share = shares(style)
    assert 0.2 < max(share.values()) < 0.38
    assert all(0.003 < share[name] < 0.03 for name in RARE), share


def test_shares_differ_only_moderately():
    game, camera = shares("game"), shares("camera")
    assert all(0.5 < camera[name] / game[name] < 2 for name in CLASSES), (game, camera)


def test_camera_is_duller_and_noisier():
    def saturation(images: np.ndarray) -> float:
        return float((images.max(-1).astype(float) - images.min(-1)).mean())

    def grain(images: np.ndarray, labels: np.ndarray) -> float:
        step = np.abs(np.diff(images.astype(float).mean(-1), axis=-1))
        road = list(CLASSES).index("road")
        return float(np.median(step[(labels[..., 1:] == road) & (labels[..., :-1] == road)]))

    game, camera = sixty("game"), sixty("camera")
    assert saturation(camera[0]) < 0.6 * saturation(game[0])
    assert grain(*camera) > grain(*game) + 1


@pytest.mark.parametrize("style", STYLES)
def test_sky_is_above_and_road_below(style):
    labels = sixty(style)[1]
    rows = {name: np.nonzero(labels == index)[1].mean() for index, name in enumerate(CLASSES)}
    assert rows["sky"] < rows["building"] < rows["car"] < rows["road"]
