import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import write_png

from da_lightning.errors import DataError, UserError
from da_lightning.segmentation.data import (
    Augmentation,
    EvaluationView,
    SegmentationDataModule,
    TrainingView,
    with_colours_of,
)
from da_lightning.segmentation.datasets import SegmentationDataset
from da_lightning.segmentation.mining import Mining

PLAIN = Augmentation(None, (1.0, 1.0), flip=False, colour_jitter=0.0)


class Frames(SegmentationDataset):
    """Images and labels in memory, which count how often they are read."""

    def __init__(self, images: list[Tensor], labels: list[Tensor] | None = None, num_classes: int = 2) -> None:
        self.images, self.labels, self.num_classes, self.labelled = images, labels, num_classes, labels is not None
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"street/frame_{index}"

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.reads += 1
        item = {"image": self.images[index]}
        return item | {"label": self.labels[index]} if self.labels else item


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def classes(height: int, width: int, count: int = 20, seed: int = 0) -> Tensor:
    return torch.randint(count, (height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def position_map(height: int, width: int) -> Tensor:
    """An image whose red channel holds each pixel's row and whose green channel holds its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, 0 * rows]).to(torch.uint8)


def label_of(positions: Tensor) -> Tensor:
    """A label that is a function of the position: wherever pixels go, theirs must go along."""
    return (7 * positions[0].long() + 3 * positions[1].long()) % 200


def drawn(view: TrainingView, count: int) -> list[dict[str, Tensor]]:
    return [view[0, seed] for seed in range(count)]


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(30, 40), (24, 64), (96, 128), (60, 80)])
def test_resizing_is_pillows(size):
    image, label = noise(60, 80) // 2 + 64, classes(60, 80)
    sample = TrainingView(Frames([image], [label]), size, PLAIN)[0, 0]
    shrunk = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(shrunk)).permute(2, 0, 1)
    # Both round to bytes between the two axes; near black and white, where clipping joins in, they can differ by more.
    assert (sample["image"] * 255 - expected).abs().max() <= 1.001
    nearest = Image.fromarray(label.numpy()).resize(size[::-1], Image.Resampling.NEAREST)
    assert torch.equal(sample["label"], torch.from_numpy(np.array(nearest)).long())


def test_evaluation_keeps_labels_as_they_are():
    image, label = noise(60, 80), classes(60, 80)
    sample = EvaluationView(Frames([noise(9, 9), image], [label, label]), (30, 40))[1]
    training = TrainingView(Frames([image], [label]), (30, 40), PLAIN)[0, 0]
    assert torch.equal(sample["label"], label.long()) and sample["index"] == 1
    assert torch.equal(sample["image"], training["image"])


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_flips_and_crops_move_image_and_label_together():
    image = position_map(40, 60)
    augment = Augmentation((16, 24), (1.0, 1.0), flip=True, colour_jitter=0.0)
    samples = drawn(TrainingView(Frames([image], [label_of(image).to(torch.uint8)]), (40, 60), augment), 300)
    corners, flips = set(), 0
    for sample in samples:
        positions = (sample["image"] * 255).round()
        assert torch.equal(sample["label"], label_of(positions))
        left, right = positions[1, 0, [0, -1]].tolist()
        assert abs(right - left) == 23 and positions[0, -1, 0] - positions[0, 0, 0] == 15
        corners.add((positions[0, 0, 0].item(), min(left, right)))
        flips += right < left
    assert 110 < flips < 190
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops), min(lefts), max(lefts)) == (0, 24, 0, 36)


def test_scale_moves_image_and_label_together():
    image = position_map(60, 80)
    augment = Augmentation((30, 40), (0.6, 1.6), flip=True, colour_jitter=0.0)
    rows = image[0]
    samples = drawn(TrainingView(Frames([image], [rows]), (60, 80), augment), 60)
    factors = []
    for sample in samples:
        # A ramp stays a ramp under bicubic resizing, up to rounding; the outermost rows have no room for the kernel.
        ramp = sample["image"][0] * 255
        assert (ramp - sample["label"])[2:-2].abs().max() <= 1.2
        factors.append(25 / (ramp[27] - ramp[2]).mean().item())
    assert 0.55 < min(factors) < 0.75 and 1.4 < max(factors) < 1.7


def test_what_is_outside_the_image_is_ignored():
    image, label = torch.full((3, 40, 60), 200, dtype=torch.uint8), torch.ones(40, 60, dtype=torch.uint8)
    augment = Augmentation((30, 90), (0.5, 0.5), flip=False, colour_jitter=0.0)
    sample = TrainingView(Frames([image], [label]), (40, 60), augment)[0, 3]
    assert sample["image"].shape == (3, 30, 90)
    inside = torch.zeros(30, 90, dtype=torch.bool)
    inside[:20, :30] = True
    assert torch.equal(sample["label"], inside.long() + 255 * ~inside)
    assert torch.equal(sample["image"], (inside * 200 / 255).expand(3, -1, -1))


def test_jittered_scale_without_a_crop_keeps_the_size():
    augment = Augmentation(None, (0.5, 1.5), flip=False, colour_jitter=0.0)
    samples = drawn(TrainingView(Frames([noise(24, 32)], [classes(24, 32, 2)]), (24, 32), augment), 20)
    assert {(sample["image"].shape, sample["label"].shape) for sample in samples} == {((3, 24, 32), (24, 32))}
    padded = [(sample["label"] == 255).any().item() for sample in samples]
    assert any(padded) and not all(padded)


def test_colours_leave_the_label_alone():
    image, label = noise(24, 32), classes(24, 32)
    frames = Frames([image], [label])
    plain = TrainingView(frames, (24, 32), PLAIN)[0, 0]
    jittered = drawn(TrainingView(frames, (24, 32), Augmentation(None, (1.0, 1.0), False, 0.4)), 5)
    for sample in jittered:
        assert torch.equal(sample["label"], plain["label"])
        assert sample["image"].min() >= 0 and sample["image"].max() <= 1
        assert (sample["image"] - plain["image"]).abs().mean() > 0.02


def test_augmentation_depends_on_the_draw_alone():
    augment = Augmentation((16, 24), (0.8, 1.2), flip=True, colour_jitter=0.4)
    view = TrainingView(Frames([noise(40, 60), noise(40, 60, 1)], [classes(40, 60)] * 2), (40, 60), augment)
    first = view[0, 11]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    other = view[0, 12]
    view[1, 99]
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not the data set's to move"
    again = view[0, 11]
    assert all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(again[key])) for key in first)
    assert not torch.equal(first["image"], other["image"])


# -- mining ------------------------------------------------------------------------------------------------------------


def test_mined_crops_contain_the_class():
    label = torch.zeros(64, 96, dtype=torch.uint8)
    label[20, 70], label[40, 31] = 5, 6
    image = position_map(64, 96)
    view = TrainingView(Frames([image], [label], 7), (64, 96), Augmentation((9, 9), (1.0, 1.0), True, 0.0))
    assert sum((sample["label"] > 0).any().item() for sample in drawn(view, 40)) < 20
    view.mining = Mining(priority=[5], rare=[5, 6], chance=1.0)
    for sample in drawn(view, 40):
        assert sample["label"][4, 4] == 5
        assert (sample["image"][:2, 4, 4] * 255).round().tolist() == [20, 70]
    view.mining = Mining(priority=[], rare=[3, 6], chance=1.0)
    assert all(sample["label"][4, 4] == 6 for sample in drawn(view, 40))
    view.mining = Mining(priority=[5], rare=[6], chance=0.5)
    assert 5 < sum((sample["label"] == 5).any().item() for sample in drawn(view, 40)) < 35


def test_mining_looks_at_pseudo_labels(tmp_path):
    pseudo = torch.full((64, 96), 255, dtype=torch.uint8)
    pseudo[30, 50] = 1
    (tmp_path / "street").mkdir()
    write_png(pseudo[None], str(tmp_path / "street/frame_0.png"))
    view = TrainingView(Frames([noise(64, 96)]), (64, 96), Augmentation((9, 9), (1.0, 1.0), False, 0.0))
    view.pseudo_labels, view.mining = tmp_path, Mining([1], [1], 1.0)
    assert all(sample["pseudo_label"][4, 4] == 1 for sample in drawn(view, 10))


# -- colours of the other domain ---------------------------------------------------------------------------------------


def grey(mean: list[int], deviation: float, seed: int) -> Tensor:
    normal = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)
    return (torch.tensor(mean)[:, None, None] + deviation * normal).round().to(torch.uint8)


def statistics(image: Tensor) -> list[float]:
    pixels = image.double().flatten(1)
    return [*pixels.mean(1).tolist(), *pixels.std(1).tolist()]


def test_colours_become_those_of_the_other_image():
    image, other = grey([120, 100, 140], 12, 0), grey([90, 130, 110], 25, 1)
    matched = with_colours_of(image, other)
    assert matched.dtype == torch.uint8
    assert statistics(matched) == pytest.approx(statistics(other), abs=0.3)
    flat = torch.full((3, 4, 4), 50, dtype=torch.uint8)
    assert torch.equal(with_colours_of(flat, flat), flat)


def test_source_takes_the_colours_of_random_target_images():
    targets = [grey([mean] * 3, 15, mean) for mean in (80, 120, 160)]
    source, label = grey([100, 110, 120], 20, 9), classes(40, 60, 2)
    options = {"classes": {"a": [0, 0, 0], "b": [1, 1, 1]}, "image_size": (40, 60)}
    data = SegmentationDataModule(
        source=Frames([source], [label]), target=Frames(targets), match_colours=True, **options
    )
    means = [statistics(sample["image"] * 255)[:3] for sample in drawn(data.source_view, 30)]
    nearest = [min((80, 120, 160), key=lambda mean: abs(mean - m[0])) for m in means]
    assert set(nearest) == {80, 120, 160}
    assert all(m == pytest.approx([mean] * 3, abs=1) for m, mean in zip(means, nearest, strict=True))
    assert torch.equal(data.source_view[0, 0]["label"], label.long())
    assert torch.equal(data.target_view[1, 0]["image"], targets[1] / 255)


# -- pseudo labels -----------------------------------------------------------------------------------------------------


def test_pseudo_labels_are_read_by_name_and_move_along(tmp_path):
    image = position_map(40, 60)
    view = TrainingView(Frames([noise(40, 60), image]), (40, 60), Augmentation((16, 24), (1.0, 1.0), True, 0.0))
    assert view[1, 0].keys() == {"image", "index"}
    (tmp_path / "street").mkdir()
    for index, label in enumerate((torch.zeros(40, 60), label_of(image))):
        write_png(label[None].to(torch.uint8), str(tmp_path / f"street/frame_{index}.png"))
    view.pseudo_labels = tmp_path
    assert view.pseudo_label_file(1) == tmp_path / "street/frame_1.png"
    for seed in range(10):
        sample = view[1, seed]
        assert sample.keys() == {"image", "index", "pseudo_label"}
        assert sample["pseudo_label"].dtype == torch.int64
        assert torch.equal(sample["pseudo_label"], label_of((sample["image"] * 255).round()))
    assert (view[0, 0]["pseudo_label"] == 0).all()


def test_what_is_labelled_is_neither_augmented_nor_labelled():
    augment = Augmentation((16, 24), (0.8, 1.2), flip=True, colour_jitter=0.4)
    images = [noise(40, 60, seed) for seed in range(3)]
    plain = TrainingView(Frames(images, [classes(40, 60)] * 3), (40, 60), augment).unaugmented()
    assert len(plain) == 3
    for index, image in enumerate(images):
        sample = plain[index]
        assert sample.keys() == {"image", "index"} and sample["index"] == index
        assert torch.equal(sample["image"], image / 255)


# -- validity ----------------------------------------------------------------------------------------------------------


def test_validity_of_a_padded_crop_and_of_its_mirror_image():
    augment = Augmentation((5, 8), (1.0, 1.0), flip=True, colour_jitter=0.0)
    view = TrainingView(Frames([noise(4, 6) // 2 + 1]), (4, 6), augment, margins=(1, 0, 0, 2))
    expected = [
        [1, 1, 1, 1, 1, 1, 0, 0],
        [2, 2, 2, 2, 1, 1, 0, 0],
        [2, 2, 2, 2, 1, 1, 0, 0],
        [2, 2, 2, 2, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    samples, mirrored = drawn(view, 20), [row[::-1] for row in expected]
    for sample in samples:
        assert sample["validity"].tolist() in (expected, mirrored)
        assert torch.equal(sample["validity"] > 0, (sample["image"] > 0).all(0)), "flipped with its image"
    assert sum(sample["validity"].tolist() == mirrored for sample in samples) in range(4, 17)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.5, [[1, 1, 1, 0], [2, 2, 1, 0], [2, 2, 1, 0], [0, 0, 0, 0]]),
        (1.0, [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 1, 1]] + 3 * [[2, 2, 2, 2, 1, 1]]),
        (2.0, 4 * [[1] * 12] + 8 * [[2] * 8 + [1] * 4]),
    ],
)
def test_validity_of_scaled_images(factor, expected):
    size = (len(expected), len(expected[0]))
    augment = Augmentation(size, (factor, factor), flip=False, colour_jitter=0.0)
    sample = TrainingView(Frames([noise(6, 6)]), (6, 6), augment, margins=(2, 0, 0, 2))[0, 0]
    assert sample["validity"].tolist() == expected and sample["validity"].dtype == torch.uint8


def test_validity_moves_with_the_image_and_its_pseudo_label(tmp_path):
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    image[:, 7:31, 3:47] = 200
    (tmp_path / "street").mkdir()
    write_png(image[:1] // 100, str(tmp_path / "street/frame_0.png"))
    augment = Augmentation((30, 50), (0.5, 1.5), flip=True, colour_jitter=0.0)
    view = TrainingView(Frames([image]), (40, 60), augment, margins=(7, 9, 3, 13))
    view.pseudo_labels = tmp_path
    seen = set()
    for sample in drawn(view, 60):
        validity, label = sample["validity"], sample["pseudo_label"]
        assert torch.equal(torch.where(validity > 0, validity, 255), label.to(torch.uint8))
        # Where bicubic resizing does not blur the margins' inner edges, shades are the map.
        shades = sample["image"][0] * 255
        plain = (shades % 100).round() == 0
        assert plain.float().mean() > 0.7 and torch.equal((shades / 100).round()[plain], validity[plain].float())
        seen |= set(validity.unique().tolist())
    assert seen == {0, 1, 2}


def test_validity_is_of_the_target_and_draws_nothing():
    augmentation = {"flip": True, "crop_size": (30, 40), "scale_jitter": (0.8, 1.2), "colour_jitter": 0.3}
    whole, marked = module_of(**augmentation), module_of(validity=True, margins=(1, 2, 3, 4), **augmentation)
    for (without, *_), (beside, *_) in zip(whole.train_dataloader(), marked.train_dataloader(), strict=True):
        assert beside["source"].keys() == without["source"].keys() == {"image", "index", "label"}
        assert without["target"].keys() == {"image", "index"} == beside["target"].keys() - {"validity"}
        assert all(torch.equal(beside[d][key], without[d][key]) for d in without for key in without[d])
        assert beside["target"]["validity"].shape == (1, 30, 40)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"margins": (1, 0, 0, 0)}, "data.margins goes with"),
        ({"margins": (12, 12, 0, 0), "validity": True}, "data.margins=[12, 12, 0, 0] leaves nothing of target images"),
        ({"margins": (0, 0, 0, 32), "validity": True}, "data.margins=[0, 0, 0, 32] leaves nothing of target images"),
    ],
)
def test_margins_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(UserError) as caught:
        module_of(**options)
    assert str(caught.value).startswith(complaint) and str(caught.value).endswith(".")


# -- cache and loaders -------------------------------------------------------------------------------------------------


def test_cached_samples_are_the_same_and_read_once():
    images, labels = [noise(40, 60, seed) for seed in range(3)], [classes(40, 60, seed=seed) for seed in range(3)]
    augment = Augmentation((16, 24), (0.8, 1.2), flip=True, colour_jitter=0.4)
    views = [TrainingView(Frames(images, labels), (32, 48), augment, cache) for cache in (False, True)]
    for draw in [(0, 1), (1, 2), (0, 3), (1, 4), (0, 1)]:
        fresh, cached = (view[draw] for view in views)
        assert fresh.keys() == cached.keys()
        assert all(torch.equal(torch.as_tensor(fresh[key]), torch.as_tensor(cached[key])) for key in fresh)
    assert [view.dataset.reads for view in views] == [5, 2]


def module_of(count: int = 4, **options) -> SegmentationDataModule:
    images = [noise(24, 32, seed) for seed in range(count)]
    defaults = {
        "classes": {"a": [0, 0, 0], "b": [1, 1, 1]},
        "source": Frames(images, [classes(24, 32, 2)] * count),
        "target": Frames(images),
        "image_size": (24, 32),
    }
    return SegmentationDataModule(**defaults | options)


def test_worker_processes_change_nothing():
    augmentation = {"flip": True, "crop_size": (16, 16), "scale_jitter": (0.8, 1.2), "colour_jitter": 0.3}
    modules = [module_of(batch_size=2, num_workers=workers, **augmentation) for workers in (0, 1)]
    for (here, *_), (there, *_) in zip(*(module.train_dataloader() for module in modules), strict=True):
        for domain in ("source", "target"):
            assert all(torch.equal(here[domain][key], there[domain][key]) for key in here[domain])


def test_target_and_test_images_have_their_own_size():
    tests = {"target": Frames([noise(40, 60)], [classes(40, 60, 2)])}
    data = module_of(target_image_size=(16, 48), tests=tests, validations=tests)
    batch, *_ = next(iter(data.train_dataloader()))
    assert batch["source"]["image"].shape == (1, 3, 24, 32) and batch["target"]["image"].shape == (1, 3, 16, 48)
    for loader in (*data.test_dataloader(), *data.val_dataloader()):
        batch = next(iter(loader))
        assert batch["image"].shape == (1, 3, 16, 48) and batch["label"].shape == (1, 40, 60)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"target": Frames([noise(4, 4)], [classes(4, 4)])}, "data.target must not read labels"),
        ({"source": Frames([noise(4, 4)])}, "data.source must read labels"),
        ({"tests": {"day": Frames([noise(4, 4)])}}, "data.tests.day must read labels"),
        ({"tests": {"day": Frames([noise(4, 4)], [classes(4, 4)], 3)}}, "data.tests.day maps its labels to 3 classes"),
        ({"batch_size": 5}, "The source set has 4 samples"),
        ({"target_batch_size": 5}, "The target set has 4 samples"),
    ],
)
def test_sets_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(DataError) as caught:
        module_of(**options)
    assert str(caught.value).startswith(complaint) and str(caught.value).endswith(".")


def test_pseudo_labels_have_the_size_of_the_view(tmp_path):
    view = TrainingView(Frames([noise(80, 120)]), (40, 60), PLAIN)
    path = view.pseudo_label_file(0, tmp_path)
    path.parent.mkdir()
    write_png(classes(40, 60)[None], str(path))
    view.pseudo_labels = tmp_path
    assert torch.equal(view[0, 0]["pseudo_label"], classes(40, 60).long())
