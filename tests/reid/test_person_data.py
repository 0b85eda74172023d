"""What the data module makes of people: batches, augmentation, camera styles, translations, identity batches."""

from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from da_lightning.data.views import Resize, seeded
from da_lightning.errors import DataError, UserError
from da_lightning.reid.augmentation import Augmentation, random_box
from da_lightning.reid.camera_style_files import CameraStyles
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.datasets import PersonDataset, QueryGallery
from da_lightning.reid.samplers import IdentitySampler


class People(PersonDataset):
    """Images of one colour in memory: red 10 x position, green the camera; count how often they are read."""

    def __init__(self, persons, cameras, labelled: bool = True, size: tuple[int, int] = (20, 8)) -> None:
        self.persons, self.cameras, self.labelled = persons if labelled else [], cameras, labelled
        self.size, self.reads = size, 0

    def __len__(self) -> int:
        return len(self.cameras)

    def name(self, index: int) -> str:
        return f"day/{index:04d}_c{self.cameras[index]}"

    def __getitem__(self, index: int) -> dict:
        self.reads += 1
        image = torch.tensor([10 * index % 256, self.cameras[index], 0], dtype=torch.uint8)[:, None, None]
        item = {"image": image.expand(3, *self.size).clone(), "camera": self.cameras[index]}
        return item | {"person": self.persons[index]} if self.labelled else item


SOURCE = People([7, 7, 3, 3, 40, 40, -1, 0], [2, 5, 2, 5, 5, 9, 2, 2])
TARGET_CAMERAS = [4, 1, 12, 4, 1, 12]
PLAIN = {"flip": False, "crop": None, "erasing": 0.0}


def target() -> People:
    return People(None, TARGET_CAMERAS, labelled=False)


def labelled_test() -> QueryGallery:
    return QueryGallery(People([5, 6], [1, 2]), People([5, 6, 0, -1], [2, 1, 1, 1]))


def module(**options) -> PersonDataModule:
    defaults = {"source": SOURCE, "target": target(), "image_size": (20, 8), "batch_size": 3}
    return PersonDataModule(**defaults | options)


def batches(data: PersonDataModule, epoch: int = 0) -> list[dict]:
    loader = data.train_dataloader()
    for single in loader.flattened:
        single.sampler.set_epoch(epoch)
    return [batch for batch, _, _ in loader]


def joined(parts: list[dict], domain: str, key: str) -> list[int]:
    return [value for batch in parts for value in batch[domain][key].tolist()]


def shades(parts: list[dict], domain: str, channel: int = 0) -> list[int]:
    return [round(255 * float(image[channel, 0, 0])) for batch in parts for image in batch[domain]["image"]]


# -- batches -----------------------------------------------------------------------------------------------------------


def test_persons_and_cameras_are_counted_from_0_in_the_order_of_their_numbers():
    data = module(**PLAIN)
    parts = batches(data)
    assert parts[0]["source"].keys() == {"image", "person", "camera", "index"}
    assert parts[0]["target"].keys() == {"image", "camera", "index"}
    for domain in ("source", "target"):
        assert parts[0][domain]["image"].shape == (3, 3, 20, 8) and parts[0][domain]["image"].dtype == torch.float32
        assert parts[0][domain]["camera"].dtype == parts[0][domain]["index"].dtype == torch.int64
        assert sorted(joined(parts, domain, "index")) == list(range(6)), "no junk, no distractor"
        assert [10 * index for index in joined(parts, domain, "index")] == shades(parts, domain)
    order = joined(parts, "source", "index")
    assert joined(parts, "source", "person") == [[1, 1, 0, 0, 2, 2][index] for index in order]
    assert joined(parts, "source", "camera") == [[0, 1, 0, 1, 1, 2][index] for index in order]
    order = joined(parts, "target", "index")
    assert joined(parts, "target", "camera") == [[1, 0, 2, 1, 0, 2][index] for index in order]
    assert (data.num_persons, data.target_size, data.num_target_cameras) == (3, 6, 3)
    assert data.target_names[2] == "day/0002_c12" and data.image_size == (20, 8)


def test_tests_have_the_numbers_of_the_files():
    data = module(tests={"target": labelled_test(), "source": labelled_test()}, eval_batch_size=6, image_size=(10, 6))
    assert list(data.tests) == ["target", "source"] and isinstance(data.tests["target"].dataset, QueryGallery)
    [batch] = data.test_dataloader()[0]
    assert batch["person"].tolist() == [5, 6, 5, 6, 0, -1] and batch["camera"].tolist() == [1, 2, 2, 1, 1, 1]
    assert batch["is_query"].tolist() == [True] * 2 + [False] * 4 and batch["is_query"].dtype == torch.bool
    assert batch["index"].tolist() == list(range(6)) and batch["image"].shape == (6, 3, 10, 6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_tests_are_resized_as_pillow_does(interpolation):
    image = torch.randint(256, (3, 64, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 48), Image.Resampling[interpolation.upper()])
    assert (Resize((48, 20), interpolation)(image).int() - TF.pil_to_tensor(pillow)).abs().max() <= 1


def test_samples_depend_on_the_seed_alone():
    one, other = batches(module(num_workers=2)), batches(module(num_workers=0, cache=True))
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[d]["image"], b[d]["image"]) for d in ("source", "target"))
    assert not torch.equal(one[0]["source"]["image"], batches(module(), 1)[0]["source"]["image"])


def test_cached_images_are_read_once():
    people = target()
    data = module(target=people, cache=True, iterations_per_epoch=4)
    batches(data), batches(data, 1)
    assert people.reads == 6


def test_an_epoch_may_end_with_the_source():
    assert module(mode="source", target_batch_size=1).epoch_length() == 2
    assert module(target_batch_size=1).epoch_length() == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target": SOURCE}, "set data.target.labelled=false"),
        ({"source": target()}, "set data.source.labelled=true"),
        ({"keep_originals": True}, "set data.translated"),
        (
            {"sampler": "identity", "images_per_person": 2},
            "data.batch_size=3 cannot be made of data.images_per_person=2",
        ),
        ({"sampler": "identity", "images_per_person": 0}, "make it a multiple"),
        ({"batch_size": 7}, "The source set has 6 samples"),
    ],
)
def test_options_that_do_not_go_together(options, expected):
    with pytest.raises(UserError, match=expected):
        module(**options)


# -- augmentation ------------------------------------------------------------------------------------------------------


def positions(height: int, width: int) -> Tensor:
    """Row in red, column in green."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, 0 * rows]).to(torch.uint8)


def augmented(image: Tensor, count: int = 100, size=(128, 64), **options) -> list[Tensor]:
    options = PLAIN | {"erasing_area": (0.02, 0.2), "colour_jitter": 0.0} | options
    augment = Augmentation(Resize(size, "bicubic"), **options)
    samples = []
    for seed in range(count):
        with seeded(seed):
            samples.append(augment(image))
    return samples


def test_without_options_images_are_resized_alone():
    image = positions(128, 64)
    assert all(torch.equal(sample, image / 255) for sample in augmented(image, 3))


def test_half_of_the_images_are_mirrored():
    image = positions(16, 8) / 255
    samples = augmented(positions(16, 8), 400, size=(16, 8), flip=True)
    mirrored = [torch.equal(sample, image.flip(2)) for sample in samples]
    assert 160 < sum(mirrored) < 240
    assert all(mirror or torch.equal(sample, image) for mirror, sample in zip(mirrored, samples, strict=True))


def test_boxes_have_uniform_shares_and_ratios():
    image = torch.zeros(3, 200, 100)
    with seeded(0):
        boxes = torch.tensor(
            [random_box(image, (0.64, 1.0), (2.0, 3.0), 10) or (0, 0, 0, 0) for _ in range(2000)]
        ).double()
    top, left, height, width = boxes[boxes[:, 2] > 0].T
    assert len(top) > 0.99 * len(boxes)
    assert (top >= 0).all() and (top + height <= 200).all() and (left >= 0).all() and (left + width <= 100).all()
    assert (top + height).max() == 200 and (left + width).max() == 100 and top.min() == left.min() == 0
    areas, ratios = height * width / 20000, height / width
    assert areas.min() > 0.63 and areas.max() <= 1 and ratios.min() > 1.98 and ratios.max() < 3.04
    with seeded(0):  # small ones always fit: nothing bends the distributions
        boxes = torch.tensor([random_box(image, (0.02, 0.2), (0.3, 3.0), 100) for _ in range(3000)]).double()
    ratios = boxes[:, 2] / boxes[:, 3]
    assert float(ratios.mean()) == pytest.approx(1.65, abs=0.06), "a uniform ratio; a logarithmic one has 1.17"
    assert float((boxes[:, 2] * boxes[:, 3]).mean() / 20000) == pytest.approx(0.11, abs=0.005)


def test_rect_crops_are_stretched_parts():
    corners = []
    for sample in augmented(positions(128, 64), crop="rect"):
        rows, columns = 255 * sample[0], 255 * sample[1]
        assert sample.shape == (3, 128, 64)
        # What the pixels stand for says which part it is.
        height, width = (rows[-1, 0] - rows[0, 0]) * 128 / 127, (columns[0, -1] - columns[0, 0]) * 64 / 63
        assert 0.6 < height * width / (128 * 64) < 1.01 and 1.85 < height / width < 3.2
        corners.append((float(rows[0, 0]), float(columns[0, 0])))
    assert len(set(corners)) > 50


def test_what_is_too_wide_for_a_rect_crop_is_only_resized():
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    with seeded(0):
        assert random_box(image, (0.64, 1.0), (2.0, 3.0), 10) is None
    [sample] = augmented(image, 1, crop="rect")
    assert torch.equal(sample, Resize((128, 64), "bilinear")(image) / 255)


def test_padded_crops_shift_by_up_to_ten_in_256():
    shifts = set()
    for sample in augmented(positions(128, 64) + 1, 300, crop="pad"):
        rows, columns = (255 * sample).round()[:2]
        row, column = rows[64, 32] - 65, columns[64, 32] - 33
        shifts.add((int(row), int(column)))
        inside = (torch.arange(128) + row >= 0) & (torch.arange(128) + row < 128)
        assert (rows[~inside] == 0).all(), "black outside"
    for along in zip(*shifts, strict=True):
        assert (min(along), max(along)) == (-5, 5)


def test_erasing_writes_the_mean_into_the_normalised_image():
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    erased = 0
    for sample in augmented(torch.zeros(3, 128, 64, dtype=torch.uint8), 400, erasing=0.5, erasing_area=(0.1, 0.2)):
        box = sample[0] > 0
        if box.any():
            erased += 1
            assert 0.09 < box.float().mean() < 0.22
            rows, columns = box.any(1).nonzero(), box.any(0).nonzero()
            assert box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            normalised = (sample[:, box][:, 0] - mean) / deviation
            assert torch.allclose(normalised, mean, atol=1e-5)
    assert 150 < erased < 250


def test_colours_change_on_request_alone():
    grey = torch.full((3, 16, 8), 100, dtype=torch.uint8)
    shades = {round(float(sample.mean()), 3) for sample in augmented(grey, 20, size=(16, 8), colour_jitter=0.3)}
    assert len(shades) > 10


# -- camera styles and translations ------------------------------------------------------------------------------------


def save(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 20), colour).save(path)


def write_styles(folder: Path, form: str, suffix: str = ".png") -> Path:
    """A fake's green says which camera's style it has, its blue that it is one."""
    people = target()
    for index, own in enumerate(TARGET_CAMERAS):
        for other in {1, 4, 12} - {own}:
            name = form.format(name=people.name(index), own=own, other=other)
            save(folder / f"{name}{suffix}", (10 * index, other, 200))
    return folder


@pytest.mark.parametrize("form", ["{name}_fake_{own}to{other}", "{name}_fake_{other}"])
def test_each_camera_is_as_likely_and_the_own_one_shows_the_real_image(tmp_path, form):
    data = module(camera_style=str(write_styles(tmp_path, form)), iterations_per_epoch=120, cache=True, **PLAIN)
    view = data.target_view

    def seen(index: int, seed: int) -> tuple[int, ...]:
        return tuple((255 * view[index, seed]["image"][:, 0, 0]).round().int().tolist())

    assert {seen(2, seed) for seed in range(9)} == {(20, 12, 0)}, "on request alone"
    data.show_camera_styles(True)
    parts = batches(data)
    index, cameras, blue = joined(parts, "target", "index"), shades(parts, "target", 1), shades(parts, "target", 2)
    assert shades(parts, "target") == [10 * i for i in index]
    assert all((b == 0) == (camera == TARGET_CAMERAS[i]) for i, camera, b in zip(index, cameras, blue, strict=True))
    drawn = Counter(zip(index, cameras, strict=True))
    assert len(drawn) == 18 and all(6 < count < 40 for count in drawn.values())
    assert joined(parts, "target", "camera") == [[1, 0, 2, 1, 0, 2][i] for i in index]
    assert [seen(2, seed) for seed in range(9)] == [seen(2, seed) for seed in range(9)]
    assert {seen(2, seed) for seed in range(20)} == {(20, 1, 200), (20, 4, 200), (20, 12, 0)}
    data.show_camera_styles(False)
    assert {seen(2, seed) for seed in range(9)} == {(20, 12, 0)}


def test_fakes_may_be_jpegs_and_are_augmented(tmp_path):
    folder = write_styles(tmp_path, "{name}_fake_{other}", ".jpeg")
    data = module(camera_style=str(folder), iterations_per_epoch=30, image_size=(10, 6), erasing=1.0)
    data.show_camera_styles(True)
    images = torch.cat([batch["target"]["image"] for batch in batches(data)])
    assert images.shape[2:] == (10, 6)
    erased = (images[:, 2] * 255 - 126.8).abs() < 1
    assert erased.flatten(1).any(1).all()


def test_missing_camera_styles_are_told_of_before_training(tmp_path):
    data = module(camera_style=str(write_styles(tmp_path, "{name}_fake_{other}")))
    for name in ("day/0001_c1_fake_12", "day/0004_c1_fake_4"):
        (tmp_path / f"{name}.png").unlink()
    save(tmp_path / "day/0001_c1_fake_4to12.png", (0, 0, 0))  # of another camera than the image
    with pytest.raises(DataError, match=r"\b2 of 12\b.*day/0001_c1_fake_1to12 or day/0001_c1_fake_12\b"):
        data.show_camera_styles(True)
    with pytest.raises(DataError, match="which does not exist"):
        CameraStyles(tmp_path / "none", ["a"] * 2, [1, 2])
    with pytest.raises(DataError, match="All target images are of camera 3"):
        CameraStyles(tmp_path, ["a"] * 2, [3, 3])
    with pytest.raises(UserError, match=r"data\.camera_style\b.*method\.camera=false"):
        module().show_camera_styles(True)


def test_translations_take_the_place_of_the_originals_or_join_them(tmp_path):
    for index in range(6):
        save(tmp_path / f"{SOURCE.name(index)}.png", (10 * index, 0, 200))
    for keep, size, blues in ((False, 6, {200}), (True, 12, {0, 200})):
        data = module(translated=str(tmp_path), keep_originals=keep, **PLAIN)
        parts = batches(data)
        assert len(data.source_view) == size and data.num_persons == 3
        assert set(shades(parts, "source", 2)) == blues and Counter(joined(parts, "source", "index")) == dict.fromkeys(
            range(6), size // 6
        )
        index = joined(parts, "source", "index")
        assert joined(parts, "source", "person") == [[1, 1, 0, 0, 2, 2][i] for i in index]
        assert shades(parts, "source") == [10 * i for i in index]
    (tmp_path / f"{SOURCE.name(3)}.png").unlink()
    with pytest.raises(DataError, match=r"\b1 of 6\b.*day/0003_c5\b.*data\.translated"):
        module(translated=str(tmp_path))


# -- identity batches --------------------------------------------------------------------------------------------------

PERSONS = [p for p in range(7) for _ in range(5)] + [7, 8, 8]
CAMERAS = [1, 1, 1, 2, 3] * 7 + [1, 4, 4]


def drawn(epoch: int = 0, batch_size: int = 12, batches: int = 8, k: int = 4, **options) -> list[tuple[int, int]]:
    options = {"seed": 0} | options
    sampler = IdentitySampler(PERSONS, CAMERAS, k, batch_size, batches * batch_size, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_images_of_a_person_come_together_from_other_cameras():
    draws = drawn(batches=90)
    tuples = [[index for index, _ in draws[start : start + 4]] for start in range(0, len(draws), 4)]
    counts, anchors = Counter(), defaultdict(Counter)
    for anchor, *others in tuples:
        [person] = {PERSONS[index] for index in (anchor, *others)}
        counts[person] += 1
        anchors[person][anchor] += 1
        if person < 7:
            assert all(CAMERAS[other] != CAMERAS[anchor] for other in others)
            assert len(set(others)) == 3 or CAMERAS[anchor] == 1, "none twice while there are enough"
        elif person == 7:
            assert {anchor, *others} == {35}
        else:
            assert set(others) == {36, 37} - {anchor}
    assert set(counts.values()) == {30}, "each person as often"
    assert all(len(anchors[person]) == 5 for person in range(7))
    assert any(len(set(others)) == 3 for anchor, *others in tuples if CAMERAS[anchor] > 1)
    assert len({seed for _, seed in draws}) == len(draws)
    passes = [tuple(PERSONS[t[0]] for t in tuples[start : start + 9]) for start in range(0, 18, 9)]
    assert passes[0] != passes[1] and set(passes[0]) == set(passes[1]) == set(range(9))


def test_identity_batches_are_a_function_of_seed_and_epoch():
    assert drawn(2) == drawn(2) and drawn(2) != drawn(3) != drawn(3, seed=1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(world_size):
    alone = drawn(batch_size=12 * world_size)
    ranks = [drawn(batch_size=12, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [draw for step in range(8) for rank in ranks for draw in rank[12 * step : 12 * (step + 1)]]
    assert together == alone


def test_the_data_module_makes_identity_batches_on_each_rank():
    def made(batch_size: int, rank: int, world_size: int) -> list[dict]:
        source = People([person + 1 for person in PERSONS], CAMERAS)
        data = module(
            source=source, sampler="identity", images_per_person=2, batch_size=batch_size, iterations_per_epoch=4
        )
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        return batches(data)

    alone, ranks = made(6, 0, 1), [made(2, rank, 3) for rank in range(3)]
    for step, batch in enumerate(alone):
        persons = batch["source"]["person"].tolist()
        assert persons[::2] == persons[1::2]
        for key in ("index", "person", "camera", "image"):
            assert torch.equal(torch.cat([rank[step]["source"][key] for rank in ranks]), batch["source"][key])
