"""Source and target loaders for unpaired image translation."""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from da_lightning.arguments import Size
from da_lightning.data import views
from da_lightning.data.facts import DataFacts
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.data.views import Interpolation, Item, Resize
from da_lightning.errors import DataError, UserError
from da_lightning.translation.datasets import AlignedImages, Images

log = logging.getLogger(__name__)

Affine = dict[Literal["degrees", "translate", "scale", "shear"], float]


class UnpairedImages(SourceTargetDataModule):
    """Images are float32 RGB in [-1, 1]; what else items have (``label``, ``domain``, ...) is handed on.

    Source and target are drawn and augmented independently of each other; test images are resized alone.

    Args:
        source, target: Training sets; the target must be unlabelled. ``None`` trains on the target alone.
        tests: Sets named ``source`` and ``target``, both or none.
        validations: Source-like sets by name, for methods of one's own; ours validate nothing.
        image_size: An integer resizes the shorter side to it (UNIT, MUNIT), (H, W) stretches (CycleGAN, DRIT), ``None``
            leaves images as they are.
        target_image_size: The same for the target; ``None`` is ``image_size``.
        test_image_size: The same for tests of both; ``None`` is that of training.
        crop_size: (H, W) of random training crops; ``None`` takes the whole image.
        flip: Mirror every other training image.
        affine: Random rotation by up to ``degrees``, shift by up to ``translate`` of a side, scale by up to 1 +-
            ``scale`` and ``shear`` by up to so many degrees; what comes in from outside is black.
        target_affine: The same for the target; ``None`` is ``affine``.
        interpolation: Of resizing.
        cache: Keep resized images in memory as uint8 (each loader process its own).
        root, files: What the sets share; only a configuration refers to it.
        download: Whether to fetch the files; and
        downloadable: whether the configuration's ``files`` can.
        loader: See :class:`~da_lightning.data.source_target.SourceTargetDataModule`.
    """

    def __init__(
        self,
        source: Images | None,
        target: Images,
        tests: dict[Literal["source", "target"], Images] | None = None,
        validations: dict[str, Images] | None = None,
        image_size: PositiveInt | Size | None = 256,
        target_image_size: PositiveInt | Size | None = None,
        test_image_size: PositiveInt | Size | None = None,
        crop_size: Size | None = (256, 256),
        flip: bool = True,
        affine: Affine | None = None,
        target_affine: Affine | None = None,
        interpolation: Interpolation = "bilinear",
        cache: bool = False,
        root: str | None = None,
        files: str | None = None,
        download: bool = False,
        downloadable: bool = False,
        **loader: Any,
    ) -> None:
        tests, validations = tests or {}, validations or {}
        if download and not downloadable:
            raise UserError(
                "data.download=true was given, but this pair has no official link to fetch it from: get its files "
                "yourself and let data.root be their folder, or leave data.download out where nothing is needed."
            )
        if target.labelled:
            raise DataError("data.target must not read labels: set data.target.labelled=false.")
        if len(tests) == 1:
            raise DataError(f"data.tests names {', '.join(tests)} alone: give both source and target, or neither.")
        resize = Resize(image_size, interpolation)
        target_resize = Resize(target_image_size or image_size, interpolation)
        test_resize = Resize(test_image_size, interpolation) if test_image_size else None
        augment = Augmentation(crop_size, flip, affine or {})
        target_augment = augment if target_affine is None else Augmentation(crop_size, flip, target_affine)
        if source is not None:  # methods that read it are refused without
            self.source_view = TrainingView(source, resize, augment, cache)
        self.target_view = TrainingView(target, target_resize, target_augment, cache)
        # In the order that methods expect.
        resizes = {"source": test_resize or resize, "target": test_resize or target_resize}
        super().__init__(
            None if source is None else self.source_view,
            self.target_view,
            {name: EvaluationView(tests[name], resizes[name]) for name in resizes if name in tests},
            {name: EvaluationView(dataset, resize) for name, dataset in validations.items()},
            **loader,
        )
        tell_of_pairs(source, target)

    @property
    def facts(self) -> DataFacts:
        size = self.training_sizes.get("target") or self.target_view[0, 0]["image"].shape[1:]
        num_domains = getattr(self.target_view.dataset, "num_domains", None)
        return DataFacts(image_size=(size[0], size[1]), num_domains=num_domains)

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        found = {name: cast(TrainingView, getattr(self, f"{name}_view")).sizes() for name in self.batch_sizes}
        several = set().union(*found.values())
        if len(several) > 1:
            one, other = sorted(several)[:2]
            raise DataError(
                f"Training images are of {len(several)} sizes, such as {one[1]}x{one[0]} and {other[1]}x{other[0]}, "
                "and make no batches: crop them (data.crop_size), or stretch them to one size "
                "(data.image_size=[height,width])."
            )
        return {name: size for name, sizes in found.items() for size in sizes}


def tell_of_pairs(source: Images | None, target: Images) -> None:
    """Say whether halves of one aligned file are in both domains."""
    if isinstance(source, AlignedImages) and isinstance(target, AlignedImages):
        if shared := {path for _, path in source.files} & {path for _, path in target.files}:
            message = "Both halves of %d aligned files are in training: pairs, though never shown as such."
            log.warning(message, len(shared))
        else:
            message = "Source takes %d aligned files and target %d others: no image has its pair in the other domain."
            log.info(message, len(source), len(target))


class Augmentation:
    """Mirror, affine map and crop, drawn from torch's global generator; arguments as of :class:`UnpairedImages`."""

    def __init__(self, crop_size: Size | None, flip: bool, affine: Affine) -> None:
        self.crop_size, self.flip = crop_size, flip
        self.affine = {key: affine.get(key, 0.0) for key in ("degrees", "shear", "scale", "translate")}

    def __call__(self, image: Tensor) -> Tensor:
        """Augment ``image`` uint8 [3, H, W], both sides at least those of the crop."""
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        if any(self.affine.values()):
            image = self._mapped(image)
        if self.crop_size is None:
            return image
        height, width = self.crop_size
        top = int(torch.randint(image.shape[1] - height + 1, ()))
        left = int(torch.randint(image.shape[2] - width + 1, ()))
        return image[:, top : top + height, left : left + width]

    def _mapped(self, image: Tensor) -> Tensor:
        # On small images v2.RandomAffine takes longer than reading and resizing them.
        strengths = [*self.affine.values(), self.affine["translate"]]
        degrees, shear, scale, right, down = ((2 * torch.rand(5) - 1) * torch.tensor(strengths)).tolist()
        (height, width), zoom, angle = image.shape[1:], 1 / (1 + scale), math.radians(degrees)
        cosine, sine, skew = math.cos(angle), math.sin(angle), math.tan(math.radians(shear))
        rows = [
            [zoom * cosine, zoom * (skew * cosine - sine) * height / width, 2 * right],
            [zoom * sine * width / height, zoom * (skew * sine + cosine), 2 * down],
        ]
        grid = F.affine_grid(torch.tensor([rows]), [1, 3, height, width], align_corners=False)
        return F.grid_sample(image[None].float(), grid, align_corners=False)[0]


class _View(views.View):
    """Images are float32 in [-1, 1], and those of a batch of one size."""

    dataset: Images

    def as_float(self, image: Tensor) -> Tensor:
        return image.float() / 127.5 - 1

    def __getitems__(self, draws: Sequence[Any]) -> list[Item]:
        """What torch's loaders ask for a batch."""
        samples = [self[draw] for draw in draws]
        sizes = {f"{width}x{height}" for _, height, width in (sample["image"].shape for sample in samples)}
        if len(sizes) > 1:
            raise DataError(
                f"Images of {' and '.join(sorted(sizes)[:3])} cannot make one batch: crop them (data.crop_size), "
                "stretch them to one size (data.image_size=[height,width]), or take one at a time (data.batch_size=1, "
                "in tests data.eval_batch_size=1)."
            )
        return samples


class TrainingView(_View, views.TrainingView):
    """Resized and augmented images, addressed by (index, augmentation seed)."""

    augment: Augmentation

    def sizes(self) -> set[tuple[int, int]]:
        """The same after the crop.

        Raises:
            DataError: An image smaller than the crop.
        """
        crop = self.augment.crop_size
        if crop is None:
            return super().sizes()
        shortest = self.resize.size[0] if self.resize.size and len(self.resize.size) == 1 else 0
        for size in set() if max(crop) <= shortest else super().sizes():
            self._check_size("A training image", size)
        return {(crop[0], crop[1])}

    def item(self, index: int) -> Item:
        item = super().item(index)
        self._check_size(self.dataset.name(index), item["image"].shape[1:])
        return item

    def _check_size(self, name: str, size: Sequence[int]) -> None:
        crop = self.augment.crop_size
        if crop is not None and (size[0] < crop[0] or size[1] < crop[1]):
            raise DataError(
                f"{name} is {size[1]}x{size[0]} after resizing, smaller than the crop of {crop[1]}x{crop[0]}: raise "
                "data.image_size or lower data.crop_size."
            )


class EvaluationView(_View, views.EvaluationView):
    """Resized images, addressed by index."""
