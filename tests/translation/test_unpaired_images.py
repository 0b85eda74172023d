"""What the data module makes of images: sizes, ranges, augmentation, batches."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from da_lightning.data.views import Resize
from da_lightning.errors import DataError
from da_lightning.translation.data import Augmentation, EvaluationView, TrainingView, UnpairedImages
from da_lightning.translation.datasets import AlignedImages, ImageDataset, ToyShoes


class Frames(ImageDataset):
    """Images in memory, which count how often they are read."""

    def __init__(self, images: list[Tensor], labels: list[int] | None = None) -> None:
        self.images, self.labels, self.labelled, self.reads = images, labels, labels is not None, 0

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"album/{index}"

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        self.reads += 1
        item = {"image": self.images[index]}
        return item if self.labels is None else item | {"label": self.labels[index]}


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def positions(height: int, width: int) -> Tensor:
    """Row in red, column in green."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, 0 * rows]).to(torch.uint8)


def as_bytes(image: Tensor) -> Tensor:
    return ((image + 1) * 127.5).round()


def views(image: Tensor, size=None, crop=None, flip=False, affine=None, count: int = 200) -> list[Tensor]:
    view = TrainingView(Frames([image]), Resize(size, "bilinear"), Augmentation(crop, flip, affine or {}))
    return [view[0, seed]["image"] for seed in range(count)]


def module(**options) -> UnpairedImages:
    images = [noise(24, 32, seed) for seed in range(6)]
    defaults = {"source": Frames(images), "target": Frames(images[:4]), "image_size": None, "crop_size": (16, 20)}
    return UnpairedImages(**defaults | options)


# -- sizes and ranges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, (30, 41)), (15, (15, 20)), (60, (60, 82)), ([24, 24], (24, 24)), ((30, 41), (30, 41))],
)
def test_resizing(size, expected):
    resize = Resize(size, "bicubic")
    for image, wanted in ((noise(30, 41), expected), (noise(41, 30), expected[::-1])):
        if size is None or isinstance(size, int):
            assert tuple(resize(image).shape[1:]) == wanted
    assert tuple(resize(noise(30, 41)).shape[1:]) == expected


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(15, 20), (64, 80)])
def test_resizing_is_pillows(interpolation, size):
    image = noise(32, 40) // 2 + 64
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        size[::-1], getattr(Image.Resampling, interpolation.upper())
    )
    assert (Resize(size, interpolation)(image).int() - TF.pil_to_tensor(pillow)).abs().max() <= 1


def test_values_are_from_minus_one_to_one():
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    for sample in (views(image, count=1)[0], EvaluationView(Frames([image]), Resize(None, "bilinear"))[0]["image"]):
        assert sample.dtype == torch.float32 and torch.equal(sample, image / 127.5 - 1)
        assert (sample.min(), sample.max()) == (-1, 1)


def test_test_images_are_resized_alone():
    data = module(image_size=48, tests={"target": Frames([noise(24, 32)]), "source": Frames([noise(50, 50)])})
    assert list(data.tests) == ["source", "target"], "methods tell the domains by their order"
    source, target = (next(iter(loader)) for loader in data.test_dataloader())
    assert source["image"].shape == (1, 3, 48, 48)
    assert target["image"].shape == (1, 3, 48, 64) and target.keys() == {"image", "index"}
    assert torch.equal(target["image"][0], Resize(48, "bilinear")(noise(24, 32)) / 127.5 - 1)

    tests = {"source": Frames([noise(24, 32)]), "target": Frames([noise(50, 50)])}
    for loader in module(image_size=48, test_image_size=(40, 44), tests=tests).test_dataloader():
        assert next(iter(loader))["image"].shape == (1, 3, 40, 44)


def test_domains_have_sizes_and_affine_maps_of_their_own():
    data = module(
        image_size=(16, 16), target_image_size=(20, 24), crop_size=None, affine={"degrees": 5.0}, target_affine={}
    )
    batch, *_ = next(iter(data.train_dataloader()))
    assert batch["source"]["image"].shape == (1, 3, 16, 16) and batch["target"]["image"].shape == (1, 3, 20, 24)
    assert data.source_view.augment.affine["degrees"] == 5 and not any(data.target_view.augment.affine.values())
    assert module(affine={"scale": 0.1}).target_view.augment.affine["scale"] == 0.1


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_crops_and_flips_reach_everywhere():
    corners, flips = set(), 0
    for sample in views(positions(40, 60), crop=(16, 24), flip=True, count=400):
        rows, columns, _ = as_bytes(sample)
        assert sample.shape == (3, 16, 24)
        assert (rows[1:] - rows[:-1] == 1).all() and ((columns[:, 1:] - columns[:, :-1]).abs() == 1).all()
        flips += bool(columns[0, 0] > columns[0, 1])
        corners.add((int(rows.min()), int(columns.min())))
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 24, 0, 36)
    assert 150 < flips < 250


def test_without_options_nothing_is_augmented():
    image = noise(24, 32)
    assert all(torch.equal(as_bytes(sample), image) for sample in views(image, count=3))


def disc(height: int, width: int, row: float, column: float, radius: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return (255 * inside).to(torch.uint8).expand(3, -1, -1)


def moments(image: Tensor) -> tuple[float, float, float, float, float]:
    """Centre (row, column), and variances along rows, along columns, and of both together."""
    mass = as_bytes(image)[0].double()
    rows, columns = torch.meshgrid(*(torch.arange(side).double() for side in mass.shape), indexing="ij")
    row, column = (mass * rows).sum() / mass.sum(), (mass * columns).sum() / mass.sum()
    pairs = (rows - row, rows - row), (columns - column, columns - column), (rows - row, columns - column)
    return tuple(float(v) for v in (row, column, *((mass * a * b).sum() / mass.sum() for a, b in pairs)))


def test_rotation_keeps_discs_round_and_distances_to_the_middle():
    angles = []
    for sample in views(disc(60, 90, 29.5, 62.5, 8), affine={"degrees": 40.0}, count=60):
        row, column, vertical, horizontal, both = moments(sample)
        assert vertical == pytest.approx(horizontal, rel=0.05) and both == pytest.approx(0, abs=0.6)
        assert np.hypot(row - 29.5, column - 44.5) == pytest.approx(18, abs=0.2)
        angles.append(np.degrees(np.arctan2(row - 29.5, column - 44.5)))
    assert -40.5 < min(angles) < -30 and 30 < max(angles) < 40.5


def test_shifts_are_shares_of_a_side():
    centres = np.array(
        [moments(sample)[:2] for sample in views(disc(60, 90, 29.5, 44.5, 5), affine={"translate": 0.2})]
    )
    shifts = np.abs(centres - (29.5, 44.5)).max(0)
    assert 10.5 < shifts[0] < 12.1 and 16 < shifts[1] < 18.1


def test_scale_and_shear():
    before = moments(views(disc(60, 90, 29.5, 44.5, 12), count=1)[0])
    scaled = [moments(sample) for sample in views(disc(60, 90, 29.5, 44.5, 12), affine={"scale": 0.2}, count=60)]
    factors = [np.sqrt(after[2] / before[2]) for after in scaled]
    assert 0.79 < min(factors) < 0.85 and 1.15 < max(factors) < 1.22
    assert all(after[2] == pytest.approx(after[3], rel=0.05) for after in scaled)
    sheared = [moments(sample) for sample in views(disc(60, 90, 29.5, 44.5, 12), affine={"shear": 20.0}, count=60)]
    slopes = [after[4] / after[2] for after in sheared]
    assert 0.3 < max(slopes) < 0.38 and -0.38 < min(slopes) < -0.3
    assert all(after[2] == pytest.approx(before[2], rel=0.05) for after in sheared)


def test_augmentation_depends_on_the_draw_alone():
    augment = Augmentation((16, 24), True, {"degrees": 10.0})
    view = TrainingView(Frames([noise(40, 60), noise(40, 60, 1)]), Resize(None, "bilinear"), augment)
    first = view[0, 11]["image"]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    other = view[0, 12]["image"]
    view[1, 99]
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not the data set's to move"
    assert torch.equal(view[0, 11]["image"], first) and not torch.equal(other, first)


def test_source_and_target_are_augmented_independently():
    frames = Frames([positions(40, 60)] * 8)
    data = module(source=frames, target=frames, batch_size=8)
    batch, *_ = next(iter(data.train_dataloader()))
    corners = [{tuple(as_bytes(i)[:2, 0, 0].tolist()) for i in batch[d]["image"]} for d in ("source", "target")]
    assert len(corners[0]) > 5 and len(corners[1]) > 5 and not corners[0] & corners[1]
    assert batch["source"]["index"].tolist() != batch["target"]["index"].tolist()


# -- labels, cache, loaders --------------------------------------------------------------------------------------------


def test_labels_are_of_the_source_and_of_tests_alone():
    labelled = Frames([noise(24, 32, seed) for seed in range(6)], [3, 1, 4, 1, 5, 9])
    data = module(source=labelled, tests={"source": labelled, "target": labelled}, batch_size=2, eval_batch_size=6)
    batch, *_ = next(iter(data.train_dataloader()))
    assert batch["source"].keys() == {"image", "index", "label"} and batch["target"].keys() == {"image", "index"}
    assert batch["source"]["label"].dtype == torch.int64
    assert batch["source"]["label"].tolist() == [labelled.labels[i] for i in batch["source"]["index"]]
    assert [next(iter(loader))["label"].tolist() for loader in data.test_dataloader()] == [labelled.labels] * 2
    with pytest.raises(DataError, match=r"^data\.target\b.*data\.target\.labelled=false.*\.$"):
        module(target=labelled)


def test_cached_samples_are_the_same_and_read_once():
    pairs = [
        TrainingView(Frames([noise(40, 60, 0), noise(40, 60, 1)], [1, 2]), Resize(30, "bilinear"), augment, cache)
        for augment in [Augmentation((16, 24), True, {"degrees": 10.0})]
        for cache in (False, True)
    ]
    for draw in [(0, 1), (1, 2), (0, 3), (1, 4), (0, 1)]:
        fresh, cached = (view[draw] for view in pairs)
        assert fresh["label"] == cached["label"] and torch.equal(fresh["image"], cached["image"])
    assert [view.dataset.reads for view in pairs] == [5, 2]


def test_worker_processes_change_nothing():
    modules = [module(batch_size=2, num_workers=workers, affine={"degrees": 10.0}) for workers in (0, 1)]
    for (here, *_), (there, *_) in zip(*(data.train_dataloader() for data in modules), strict=True):
        for domain in ("source", "target"):
            assert torch.equal(here[domain]["image"], there[domain]["image"])


def test_validations_are_resized_as_the_source():
    data = module(image_size=48, validations={"held_out": Frames([noise(24, 32)])})
    assert list(data.validations) == ["held_out"]
    assert next(iter(data.val_dataloader()[0]))["image"].shape == (1, 3, 48, 64)


# -- what does not fit -------------------------------------------------------------------------------------------------


def first_batch_complaint(**options) -> str:
    with pytest.raises(DataError) as caught:
        next(iter(module(**options).train_dataloader()))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_images_smaller_than_the_crop_are_named():
    message = first_batch_complaint(crop_size=(16, 40))
    assert "is 32x24 after resizing, smaller than the crop of 40x16" in message and message.startswith("album/")
    assert "smaller than the crop" in first_batch_complaint(image_size=20, crop_size=(24, 24))


def test_images_of_several_sizes_make_no_batch():
    mixed = Frames([noise(24, 32), noise(30, 32)])
    assert "Images of 32x24 and 32x30 cannot" in first_batch_complaint(source=mixed, crop_size=None, batch_size=2)
    data = module(tests={"source": mixed, "target": mixed}, eval_batch_size=2)
    with pytest.raises(DataError, match="data.eval_batch_size=1"):
        next(iter(data.test_dataloader()[0]))
    batch, *_ = next(iter(module(source=mixed, batch_size=2).train_dataloader()))
    assert batch["source"]["image"].shape == (2, 3, 16, 20)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tests": {"target": Frames([noise(4, 4)])}}, "data.tests names target alone"),
        ({"batch_size": 5}, "The target set has 4 samples, fewer than a batch of 5"),
        ({"source": Frames([])}, "The source set has 0 samples"),
        ({"target": Frames([])}, "The target set has 0 samples"),
    ],
)
def test_sets_that_do_not_fit_are_refused(options, expected):
    with pytest.raises(DataError) as caught:
        module(**options)
    assert str(caught.value).startswith(expected) and str(caught.value).endswith(".")


def test_aligned_halves_are_told_apart(tmp_path, caplog):
    for number in range(4):
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.new("RGB", (40, 20)).save(tmp_path / f"train/{number}.png")

    def told(*parts: str) -> str:
        caplog.clear()
        halves = (AlignedImages(tmp_path, half, part=part) for half, part in zip(("left", "right"), parts, strict=True))
        with caplog.at_level("INFO", "da_lightning.translation.data"):
            UnpairedImages(*halves, crop_size=None)
        return caplog.text

    assert "Source takes 2 aligned files and target 2 others" in told("even", "odd")
    assert "Both halves of 2 aligned files" in told("all", "odd")
    module()
    assert len(caplog.records) == 1


def test_an_epoch_of_toy_shoes():
    shoes = {style: ToyShoes(style, 8, size=(32, 32)) for style in ("drawing", "photo")}
    data = UnpairedImages(shoes["drawing"], shoes["photo"], image_size=None, crop_size=None, batch_size=4)
    batches = [batch for batch, *_ in data.train_dataloader()]
    assert len(batches) == 2
    assert all(batch[domain]["image"].shape == (4, 3, 32, 32) for batch in batches for domain in batch)
