"""Source and target loaders for segmentation: resizing, augmentation, the present round's pseudo labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from da_lightning.arguments import Size
from da_lightning.data.samplers import Draw
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import DataError
from da_lightning.files import read_png
from da_lightning.segmentation.datasets import SegmentationDataset
from da_lightning.segmentation.losses import IGNORE
from da_lightning.segmentation.mining import Mining, mined_crop

Sample = dict[str, Any]


class SegmentationDataModule(SourceTargetDataModule):
    """Images are float32 RGB in [0, 1]; labels int64 [H, W] with 255 = ignore, at their own resolution in test sets.

    Args:
        classes: Class names and colours, in the order of the class ids; each set must have as many.
        source, target: Training sets; the target must be unlabelled.
        tests, validations: Labelled sets by name.
        image_size: (H, W) to which source images are resized (anisotropic, as in AdaptSegNet).
        target_image_size: The same for target, validation and test images; ``None`` is ``image_size``.
        crop_size: (H, W) of training crops; ``None`` takes the whole image.
        scale_jitter: Range of the random scale before the crop, as a factor of the image size.
        flip: Mirror every other training image.
        colour_jitter: Strength of random brightness, contrast and saturation.
        match_colours: Give each source image the channel means and deviations of a random target image.
        cache: Keep resized images in memory as uint8 (each loader process its own).
        root, class_map: What the sets share; only a configuration refers to it.
        loader: See :class:`~da_lightning.data.source_target.SourceTargetDataModule`.
    """

    def __init__(
        self,
        classes: dict[str, list[int]],
        source: SegmentationDataset,
        target: SegmentationDataset,
        tests: dict[str, SegmentationDataset] | None = None,
        validations: dict[str, SegmentationDataset] | None = None,
        image_size: Size = (512, 1024),
        target_image_size: Size | None = None,
        crop_size: Size | None = None,
        scale_jitter: tuple[float, float] = (1.0, 1.0),
        flip: bool = False,
        colour_jitter: NonNegativeFloat = 0.0,
        match_colours: bool = False,
        cache: bool = False,
        root: str | None = None,
        class_map: str | None = None,
        **loader: Any,
    ) -> None:
        tests, validations = tests or {}, validations or {}
        labelled = {f"tests.{n}": d for n, d in tests.items()} | {f"validations.{n}": d for n, d in validations.items()}
        if not 0 < scale_jitter[0] <= scale_jitter[1]:
            raise DataError(
                f"data.scale_jitter={list(scale_jitter)} is no range of scales: give the smaller, above 0, then the "
                "larger."
            )
        self._check_sets(classes, {"source": source, "target": target, **labelled})
        target_size = target_image_size or image_size
        augment = Augmentation(crop_size, scale_jitter, flip, colour_jitter)
        target_view = TrainingView(target, target_size, augment, cache)
        source_view = TrainingView(source, image_size, augment, cache, target_view if match_colours else None)
        super().__init__(
            source_view,
            target_view,
            {name: EvaluationView(dataset, target_size) for name, dataset in tests.items()},
            {name: EvaluationView(dataset, target_size) for name, dataset in validations.items()},
            **loader,
        )
        self.source_view, self.target_view = source_view, target_view

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        views = {"source": self.source_view, "target": self.target_view}
        sizes = {name: view.augment.crop_size or view.size for name, view in views.items()}
        return {name: (height, width) for name, (height, width) in sizes.items()}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.source_view.dataset.check_sizes()
            for view in (*self.tests.values(), *self.validations.values()):
                cast(EvaluationView, view).sizes()

    def unlabelled_target(self) -> Dataset:
        return self.target_view.unaugmented()

    @staticmethod
    def _check_sets(classes: dict[str, list[int]], sets: dict[str, SegmentationDataset]) -> None:
        for key, dataset in sets.items():
            if dataset.num_classes != len(classes):
                raise DataError(
                    f"data.{key} maps its labels to {dataset.num_classes} classes, but data.classes lists "
                    f"{len(classes)} ({', '.join(classes)}): make the two agree."
                )
            wanted = key != "target"
            if dataset.labelled != wanted:
                must = "must" if wanted else "must not"
                raise DataError(f"data.{key} {must} read labels: set data.{key}.labelled={wanted}.")


class Augmentation:
    """Random scale, (mined) crop, mirror and colours, drawn from torch's global generator.

    Args:
        crop_size, scale_jitter, flip, colour_jitter: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self, crop_size: Size | None, scale_jitter: tuple[float, float], flip: bool, colour_jitter: float
    ) -> None:
        self.crop_size, self.scale_jitter, self.flip = crop_size, tuple(scale_jitter), flip
        strength = colour_jitter
        self.colours = v2.ColorJitter(strength, strength, strength) if strength else v2.Identity()

    def __call__(self, image: Tensor, label: Tensor | None, mining: Mining | None) -> tuple[Tensor, Tensor | None]:
        """Augment ``image`` uint8 [3, H, W] and, alike, ``label`` uint8 [H, W]."""
        size = self.crop_size or (image.shape[-2], image.shape[-1])
        if self.scale_jitter != (1.0, 1.0):
            factor = torch.empty(()).uniform_(*self.scale_jitter).item()
            scaled = [round(side * factor) for side in image.shape[-2:]]
            image, label = resized(image, scaled), None if label is None else resized_label(label, scaled)
        if tuple(image.shape[-2:]) != size:
            image, label = self._cropped(image, label, size, mining)
        if self.flip and torch.rand(()) < 0.5:
            image, label = image.flip(-1), None if label is None else label.flip(-1)
        return self.colours(image), label

    def _cropped(
        self, image: Tensor, label: Tensor | None, size: Size, mining: Mining | None
    ) -> tuple[Tensor, Tensor | None]:
        missing = [max(0, wanted - side) for wanted, side in zip(size, image.shape[-2:], strict=True)]
        if any(missing):
            padding = [0, 0, missing[1], missing[0]]
            image = TF.pad(image, padding, fill=0)
            label = None if label is None else TF.pad(label[None], padding, fill=IGNORE)[0]
        corner = mined_crop(label, size, *mining) if mining is not None and label is not None else None
        if corner is None:
            room = [side - wanted + 1 for wanted, side in zip(size, image.shape[-2:], strict=True)]
            corner = int(torch.randint(room[0], ())), int(torch.randint(room[1], ()))
        top, left = corner
        window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        return image[window], None if label is None else label[window]


class TrainingView(Dataset[Sample]):
    """A data set as training sees it: resized, augmented, addressed by (index, augmentation seed).

    Attributes:
        pseudo_labels: Folder with a PNG of class ids for each image, at this view's size; ``None`` before the first
            round.
        mining: What crops look for, ``None`` for nothing.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        size: Size,
        augment: Augmentation,
        cache: bool = False,
        colours_of: "TrainingView | None" = None,
    ) -> None:
        self.dataset, self.size, self.augment, self.colours_of = dataset, size, augment, colours_of
        self.pseudo_labels: Path | None = None
        self.mining: Mining | None = None
        self._cache: dict[int, tuple[Tensor, Tensor | None]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Sample:
        index, seed = draw
        image, label = self.plain(index)
        key = "label"
        if self.pseudo_labels is not None:
            key, label = "pseudo_label", read_png(self.pseudo_label_file(index))[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.colours_of is not None:
                other = int(torch.randint(len(self.colours_of), ()))
                image = with_colours_of(image, self.colours_of.plain(other)[0])
            image, label = self.augment(image, label, self.mining)
        sample = {"image": image.float() / 255, "index": index}
        return sample if label is None else sample | {key: label.long()}

    def plain(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Resized image uint8 [3, H, W] and label uint8 [H, W], or ``None`` where the set has none."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        sample = self.dataset[index]
        label = resized_label(sample["label"], self.size) if "label" in sample else None
        pair = resized(sample["image"], self.size), label
        if self._cache is not None:
            self._cache[index] = pair
        return pair

    def pseudo_label_file(self, index: int, folder: Path | None = None) -> Path:
        return cast(Path, folder or self.pseudo_labels) / f"{self.dataset.name(index)}.png"

    def unaugmented(self) -> Dataset[Sample]:
        """The same images in order, resized only and without any label: what pseudo labels are made from."""
        return _Unaugmented(self)


class _Unaugmented(Dataset[Sample]):
    def __init__(self, view: TrainingView) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.view.plain(index)[0].float() / 255, "index": index}


class EvaluationView(Dataset[Sample]):
    """Resized images with labels at their own resolution."""

    def __init__(self, dataset: SegmentationDataset, size: Size) -> None:
        self.dataset, self.size = dataset, size
        self._sizes: set[tuple[int, int]] | None = None

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of the labels; empty where a data set does not say.

        Raises:
            DataError: A label of another size than its image.
        """
        if self._sizes is None:
            self._sizes = self.dataset.check_sizes() or set()
        return self._sizes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """What torch's loaders ask for a batch."""
        samples = [self[index] for index in indices]
        if len({sample["label"].shape for sample in samples}) > 1:
            raise DataError("Labels of several sizes make no batch: set data.eval_batch_size=1.")
        return samples

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return {
            "image": resized(sample["image"], self.size).float() / 255,
            "label": sample["label"].long(),
            "index": index,
        }


def resized(image: Tensor, size: Size | list[int]) -> Tensor:
    """``image`` uint8 [3, H, W], bicubic."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return TF.resize(image, list(size), v2.InterpolationMode.BICUBIC, antialias=True)


def resized_label(label: Tensor, size: Size | list[int]) -> Tensor:
    """``label`` uint8 [H, W], nearest (pixel centres, as Pillow does)."""
    if tuple(label.shape[-2:]) == tuple(size):
        return label
    return TF.resize(tv_tensors.Mask(label[None]), list(size), v2.InterpolationMode.NEAREST_EXACT)[0].as_subclass(
        Tensor
    )


def with_colours_of(image: Tensor, other: Tensor) -> Tensor:
    """``image`` with the channel means and deviations of ``other``; both uint8 [3, H, W]."""
    image, other = image.float(), other.float()
    mean, deviation = image.mean((1, 2), keepdim=True), image.std((1, 2), keepdim=True)
    matched = (image - mean) / deviation.clamp(min=1) * other.std((1, 2), keepdim=True) + other.mean(
        (1, 2), keepdim=True
    )
    return matched.round().clamp(0, 255).to(torch.uint8)
