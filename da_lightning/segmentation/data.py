"""Source and target loaders for segmentation: resizing, augmentation, the present round's pseudo labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from da_lightning.arguments import Size
from da_lightning.data import views
from da_lightning.data.colours import Augment, random_colours
from da_lightning.data.facts import DataFacts
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.data.views import Item, Resize
from da_lightning.errors import DataError, UserError
from da_lightning.files import read_png
from da_lightning.segmentation.datasets import SegmentationDataset
from da_lightning.segmentation.losses import IGNORE
from da_lightning.segmentation.mining import Mining, mined_crop

Margins = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt]
"""Widths of an image's margins: top, bottom, left, right."""

PADDING, MARGIN, COUNTS = 0, 1, 2
"""What a pixel of a validity map is: outside the image, in its margins, or one that counts."""


class SegmentationDataModule(SourceTargetDataModule):
    """Images are float32 RGB in [0, 1]; labels int64 [H, W] with 255 = ignore, at their own resolution in test sets.

    Args:
        classes: Class names and colours, in the order of the class ids; each set must have as many.
        source, target: Training sets; the target must be unlabelled. ``None`` trains on the target alone.
        tests, validations: Labelled sets by name.
        image_size: (H, W) to which source images are resized (anisotropic, as in AdaptSegNet).
        target_image_size: The same for target, validation and test images; ``None`` is ``image_size``.
        crop_size: (H, W) of training crops; ``None`` takes the whole image.
        scale_jitter: Range of the random scale before the crop, as a factor of the image size.
        flip: Mirror every other training image.
        colour_jitter: Strength of random brightness, contrast and saturation.
        augment: ``strong``: :class:`~da_lightning.data.colours.StrongColours` in the place of ``colour_jitter``.
        match_colours: Give each source image the channel means and deviations of a random target image.
        validity: Give target samples ``validity``, uint8 [H, W], cropped, scaled and flipped with the image: 0 where
            the crop is padded, 1 in the image's margins, 2 for pixels that count.
        margins: [top, bottom, left, right] of that map, in pixels of the resized image.
        cache: Keep resized images in memory as uint8 (each loader process its own).
        root, class_map: What the sets share; only a configuration refers to it.
        loader: See :class:`~da_lightning.data.source_target.SourceTargetDataModule`.
    """

    def __init__(
        self,
        classes: dict[str, list[int]],
        source: SegmentationDataset | None,
        target: SegmentationDataset,
        tests: dict[str, SegmentationDataset] | None = None,
        validations: dict[str, SegmentationDataset] | None = None,
        image_size: Size = (512, 1024),
        target_image_size: Size | None = None,
        crop_size: Size | None = None,
        scale_jitter: tuple[float, float] = (1.0, 1.0),
        flip: bool = False,
        colour_jitter: NonNegativeFloat = 0.0,
        augment: Augment | None = None,
        match_colours: bool = False,
        validity: bool = False,
        margins: Margins = (0, 0, 0, 0),
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
        target_size = target_image_size or image_size
        self._check_margins(margins, validity, target_size)
        training = {"target": target} if source is None else {"source": source, "target": target}
        self._check_sets(classes, training | labelled)
        augmentation = Augmentation(crop_size, scale_jitter, flip, colour_jitter, augment)
        self.target_view = TrainingView(target, target_size, augmentation, cache, margins=margins if validity else None)
        if source is not None:  # methods that read it are refused without
            self.source_view = TrainingView(
                source, image_size, augmentation, cache, self.target_view if match_colours else None
            )
        super().__init__(
            None if source is None else self.source_view,
            self.target_view,
            {name: EvaluationView(dataset, target_size) for name, dataset in tests.items()},
            {name: EvaluationView(dataset, target_size) for name, dataset in validations.items()},
            **loader,
        )
        self.classes = classes

    @property
    def facts(self) -> DataFacts:
        return DataFacts(classes=self.classes)

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        training = {name: cast(TrainingView, getattr(self, f"{name}_view")) for name in self.batch_sizes}
        sizes = {name: view.augment.crop_size or view.size for name, view in training.items()}
        return {name: (height, width) for name, (height, width) in sizes.items()}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            if self.source is not None:
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

    @staticmethod
    def _check_margins(margins: Margins, validity: bool, size: Size) -> None:
        if any(margins) and not validity:
            raise UserError("data.margins goes with a validity map: set data.validity=true, too.")
        top, bottom, left, right = margins
        if top + bottom >= size[0] or left + right >= size[1]:
            raise DataError(
                f"data.margins={list(margins)} leaves nothing of target images, which are {size[0]} high and {size[1]} "
                "wide: give smaller ones as [top,bottom,left,right]."
            )


class Augmentation:
    """Random scale, (mined) crop, mirror and colours, drawn from torch's global generator.

    Args:
        crop_size, scale_jitter, flip, colour_jitter, augment: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self,
        crop_size: Size | None,
        scale_jitter: tuple[float, float],
        flip: bool,
        colour_jitter: float,
        augment: Augment | None = None,
    ) -> None:
        self.crop_size, self.scale_jitter, self.flip = crop_size, tuple(scale_jitter), flip
        self.colours = random_colours(colour_jitter, augment)

    def __call__(
        self, image: Tensor, maps: dict[str, Tensor], mining: Mining | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Augment ``image`` uint8 [3, H, W] and, alike, ``maps`` uint8 [H, W] by name."""
        size = self.crop_size or (image.shape[-2], image.shape[-1])
        if self.scale_jitter != (1.0, 1.0):
            factor = torch.empty(()).uniform_(*self.scale_jitter).item()
            scaled = [round(side * factor) for side in image.shape[-2:]]
            image = Resize(scaled, "bicubic")(image)
            maps = {name: resized_map(values, scaled) for name, values in maps.items()}
        if tuple(image.shape[-2:]) != size:
            image, maps = self._cropped(image, maps, size, mining)
        if self.flip and torch.rand(()) < 0.5:
            image, maps = image.flip(-1), {name: values.flip(-1) for name, values in maps.items()}
        return self.colours(image), maps

    def _cropped(
        self, image: Tensor, maps: dict[str, Tensor], size: Size, mining: Mining | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        missing = [max(0, wanted - side) for wanted, side in zip(size, image.shape[-2:], strict=True)]
        if any(missing):
            padding = [0, 0, missing[1], missing[0]]
            image = TF.pad(image, padding, fill=0)
            fills = {name: PADDING if name == "validity" else IGNORE for name in maps}
            maps = {name: TF.pad(values[None], padding, fill=fills[name])[0] for name, values in maps.items()}
        label = maps.get("pseudo_label", maps.get("label"))
        corner = mined_crop(label, size, *mining) if mining is not None and label is not None else None
        if corner is None:
            room = [side - wanted + 1 for wanted, side in zip(size, image.shape[-2:], strict=True)]
            corner = int(torch.randint(room[0], ())), int(torch.randint(room[1], ()))
        top, left = corner
        window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        return image[window], {name: values[window] for name, values in maps.items()}


class TrainingView(views.TrainingView):
    """Images with labels, pseudo labels or neither.

    Args:
        size: (H, W) to which images and labels are resized.
        colours_of: View whose images lend theirs their colours.
        margins: Those of the samples' ``validity``; ``None`` leaves it out.

    Attributes:
        pseudo_labels: Folder with a PNG of class ids for each image, at this view's size; ``None`` before the first
            round.
        mining: What crops look for, ``None`` for nothing.
    """

    dataset: SegmentationDataset
    augment: Augmentation

    def __init__(
        self,
        dataset: SegmentationDataset,
        size: Size,
        augment: Augmentation,
        cache: bool = False,
        colours_of: "TrainingView | None" = None,
        margins: Margins | None = None,
    ) -> None:
        super().__init__(dataset, Resize(size, "bicubic"), augment, cache)
        self.size, self.colours_of, self.margins = size, colours_of, margins
        self.pseudo_labels: Path | None = None
        self.mining: Mining | None = None

    def augmented(self, index: int) -> Item:
        image, label = self.plain(index)
        maps = {} if label is None else {"label": label}
        if self.pseudo_labels is not None:
            maps = {"pseudo_label": read_png(self.pseudo_label_file(index))[0]}
        if self.margins is not None:
            maps["validity"] = validity_map(self.size, self.margins)
        if self.colours_of is not None:
            other = int(torch.randint(len(self.colours_of), ()))
            image = with_colours_of(image, self.colours_of.plain(other)[0])
        image, maps = self.augment(image, maps, self.mining)
        labels = {name: values if name == "validity" else values.long() for name, values in maps.items()}
        return {"image": self.as_float(image), "index": index, **labels}

    def resized(self, item: Item) -> Item:
        labels = {"label": resized_map(item["label"], self.size)} if "label" in item else {}
        return super().resized(item) | labels

    def plain(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Resized image uint8 [3, H, W] and label uint8 [H, W], or ``None`` where the set has none."""
        item = self.item(index)
        return item["image"], item.get("label")

    def pseudo_label_file(self, index: int, folder: Path | None = None) -> Path:
        return cast(Path, folder or self.pseudo_labels) / f"{self.dataset.name(index)}.png"


class EvaluationView(views.EvaluationView):
    """Resized images with labels at their own resolution."""

    def __init__(self, dataset: SegmentationDataset, size: Size) -> None:
        super().__init__(dataset, Resize(size, "bicubic"))
        self._sizes: set[tuple[int, int]] | None = None

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of the labels; empty where a data set does not say.

        Raises:
            DataError: A label of another size than its image.
        """
        if self._sizes is None:
            self._sizes = self.dataset.check_sizes() or set()
        return self._sizes

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """What torch's loaders ask for a batch."""
        samples = [self[index] for index in indices]
        if len({sample["label"].shape for sample in samples}) > 1:
            raise DataError("Labels of several sizes make no batch: set data.eval_batch_size=1.")
        return samples

    def __getitem__(self, index: int) -> Item:
        sample = super().__getitem__(index)
        return sample | {"label": sample["label"].long()}


def validity_map(size: Size, margins: Margins) -> Tensor:
    """The validity map of a whole image, uint8 [H, W]."""
    (height, width), (top, bottom, left, right) = size, margins
    validity = torch.full((height, width), MARGIN, dtype=torch.uint8)
    validity[top : height - bottom, left : width - right] = COUNTS
    return validity


def resized_map(values: Tensor, size: Size | list[int]) -> Tensor:
    """``values`` uint8 [H, W], nearest (pixel centres, as Pillow does)."""
    resized = TF.resize(tv_tensors.Mask(values[None]), list(size), v2.InterpolationMode.NEAREST_EXACT)
    return resized[0].as_subclass(Tensor)


def with_colours_of(image: Tensor, other: Tensor) -> Tensor:
    """``image`` with the channel means and deviations of ``other``; both uint8 [3, H, W]."""
    image, other = image.float(), other.float()
    mean, deviation = image.mean((1, 2), keepdim=True), image.std((1, 2), keepdim=True)
    matched = (image - mean) / deviation.clamp(min=1) * other.std((1, 2), keepdim=True) + other.mean(
        (1, 2), keepdim=True
    )
    return matched.round().clamp(0, 255).to(torch.uint8)
