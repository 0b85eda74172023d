"""Source and target loaders for person re-identification."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.utils.data import Dataset

from da_lightning.arguments import Share, Size
from da_lightning.data import views
from da_lightning.data.colours import Augment
from da_lightning.data.facts import DataFacts
from da_lightning.data.images import read_image
from da_lightning.data.samplers import PassSampler
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.data.views import EvaluationView, Interpolation, Item, Resize
from da_lightning.errors import DataError, UserError
from da_lightning.reid.augmentation import Augmentation, Crop, Shares
from da_lightning.reid.camera_style_files import CameraStyles
from da_lightning.reid.datasets import DISTRACTOR, PersonDataset, QueryGallery
from da_lightning.reid.datasets.files import made_files
from da_lightning.reid.samplers import IdentitySampler

log = logging.getLogger(__name__)


class PersonDataModule(SourceTargetDataModule):
    """Images are float32 RGB in [0, 1] [B, 3, H, W].

    A training sample of the source has ``person`` and ``camera``, one of the target ``camera`` alone; both are counted
    from 0, in the order of the files' numbers. Test samples have the files' own numbers and ``is_query``.

    Args:
        source: Labelled training set; junk and distractors are left out. ``None`` trains on the target alone.
        target: Unlabelled training set.
        tests, validations: Queries and gallery by name.
        image_size: (H, W) of all images.
        interpolation: Of resizing whole images; crops are bilinear.
        flip: Mirror every other training image.
        crop: ``rect`` stretches a crop of 0.64 to 1 of the area, two to three times as high as wide (ECN); ``pad`` pads
            with black, ten pixels at a height of 256, and crops (MMT); ``None`` does neither.
        erasing: Share of training images in which a box is erased, filled with ImageNet's mean.
        erasing_area: Smallest and largest share of that box.
        colour_jitter: Strength of random brightness, contrast and saturation.
        augment: ``strong``: :class:`~da_lightning.data.colours.StrongColours` in the place of ``colour_jitter``.
        sampler: ``random``, or ``identity`` for ``images_per_person`` source images of each person in a batch.
        images_per_person: A divisor of ``batch_size``.
        camera_style: Folder of :class:`~da_lightning.reid.camera_style_files.CameraStyles` of the target; read once a
            method asks for them.
        translated: Folder with a translation ``<name>.png`` (or .jpg) of each source image, to train on in its place.
        keep_originals: Train on translations and originals.
        cache: Keep decoded images in memory, in full size, camera styles included (each loader process its own).
        root: What the sets share; only a configuration refers to it.
        loader: See :class:`~da_lightning.data.source_target.SourceTargetDataModule`.

    Raises:
        DataError: A set with labels that must have none, or the reverse, and a folder that does not fit its set.
        UserError: Options that exclude each other.
    """

    def __init__(
        self,
        source: PersonDataset | None,
        target: PersonDataset,
        tests: dict[str, QueryGallery] | None = None,
        validations: dict[str, QueryGallery] | None = None,
        image_size: Size = (256, 128),
        interpolation: Interpolation = "bicubic",
        flip: bool = True,
        crop: Crop | None = "rect",
        erasing: Share = 0.5,
        erasing_area: Shares = (0.02, 0.2),
        colour_jitter: NonNegativeFloat = 0.0,
        augment: Augment | None = None,
        sampler: Literal["random", "identity"] = "random",
        images_per_person: PositiveInt = 4,
        camera_style: str | None = None,
        translated: str | None = None,
        keep_originals: bool = False,
        cache: bool = False,
        root: str | None = None,
        **loader: Any,
    ) -> None:
        if source is not None and not source.labelled:
            raise DataError("data.source must have persons: set data.source.labelled=true.")
        if target.labelled:
            raise DataError("data.target must not read persons: set data.target.labelled=false.")
        if keep_originals and translated is None:
            raise UserError("data.keep_originals goes with translations: set data.translated=<folder>, too.")
        resize = Resize(image_size, interpolation)
        augmentation = Augmentation(resize, flip, crop, erasing, erasing_area, colour_jitter, augment)
        if source is not None:  # methods that read it are refused without
            self.source_view = SourceView(source, augmentation, cache, translated, keep_originals)
        self.target_view = TargetView(target, augmentation, cache)
        super().__init__(
            None if source is None else self.source_view,
            self.target_view,
            {name: EvaluationView(dataset, resize) for name, dataset in (tests or {}).items()},
            {name: EvaluationView(dataset, resize) for name, dataset in (validations or {}).items()},
            **loader,
        )
        self.image_size, self.camera_style = image_size, camera_style
        self.sampler, self.images_per_person = sampler, images_per_person
        batch = self.batch_sizes.get("source")
        if batch and sampler == "identity" and (images_per_person < 1 or batch % images_per_person):
            raise UserError(
                f"data.batch_size={batch} cannot be made of data.images_per_person={images_per_person} images of each "
                "person: make it a multiple."
            )
        said = "No source"
        if source is not None:
            cameras = len(set(source.cameras))
            said = f"Source: {len(self.source_view)} images of {self.num_persons} persons by {cameras} cameras"
        log.info("%s; target: %d images by %d cameras.", said, self.target_size, self.num_target_cameras)

    @property
    def facts(self) -> DataFacts:
        names = "\n".join(self.target_names).encode("utf-8", "surrogatepass")
        return DataFacts(
            num_persons=None if self.source is None else self.num_persons,
            image_size=self.image_size,
            interpolation=self.target_view.resize.interpolation.value,
            target_size=self.target_size,
            target_list=hashlib.sha256(names).hexdigest(),
        )

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self.batch_sizes, (self.image_size[0], self.image_size[1]))

    @property
    def num_persons(self) -> int:
        """Persons in the source, where there is one."""
        return len(set(self.source_view.persons))

    @property
    def target_size(self) -> int:
        """Images in the target."""
        return len(self.target_view)

    @property
    def num_target_cameras(self) -> int:
        return len(set(self.target_view.cameras))

    @property
    def target_names(self) -> list[str]:
        return [self.target_view.dataset.name(index) for index in range(self.target_size)]

    def show_camera_styles(self, on: bool) -> None:
        """Whether a target image is shown as any camera of the target, each as likely, would have seen it.

        Its ``camera`` stays the one that took it.

        Raises:
            UserError: No folder was given.
            DataError: The folder lacks images, or the target has one camera only.
        """
        self.target_view.styles = None
        if on:
            if self.camera_style is None:
                raise UserError(
                    "Camera-style images of the target were asked for, but data.camera_style names no folder: set it, "
                    "or do without (method.camera=false)."
                )
            cameras = self.target_view.dataset.cameras
            self.target_view.styles = CameraStyles(self.camera_style, self.target_names, cameras)

    def camera_style_rows(self, count: int) -> tuple[Tensor, int]:
        """Some target images, a row each, as each camera would have seen them: float32 [N, 3, H, W] in [0, 1], columns.

        Only after :meth:`show_camera_styles`.
        """
        view = self.target_view
        assert view.styles is not None
        places = torch.linspace(0, self.target_size - 1, min(count, self.target_size)).round().int().tolist()
        rows = [[view.item(place, file)["image"] for file in view.styles.files(place)] for place in places]
        return view.as_float(torch.stack([image for row in rows for image in row])), len(rows[0])

    def unlabelled_target(self) -> Dataset:
        return self.target_view.unaugmented()

    def training_sampler(self, name: str, size: int, length: int) -> PassSampler:
        if name == "target" or self.sampler == "random":
            return super().training_sampler(name, size, length)
        return IdentitySampler(
            self.source_view.persons,
            self.source_view.cameras,
            self.images_per_person,
            self.batch_sizes[name],
            length,
            2 * self.seed,
            self._rank,
            self._world_size,
        )


class TrainingView(views.TrainingView):
    """Images of people, which stay in memory in full size: crops are made before they are resized."""

    dataset: PersonDataset
    augment: Augmentation

    def __init__(self, dataset: PersonDataset, augment: Augmentation, cache: bool) -> None:
        super().__init__(dataset, augment.resize, augment, cache)

    def read(self, index: int, file: Path | None = None) -> Tensor:
        """Image ``index``, or ``file``, which takes its place."""
        return self.cached(file or index, lambda: read_image(file) if file else self.dataset[index]["image"])

    def item(self, index: int, file: Path | None = None) -> Item:
        return {"image": self.resize(self.read(index, file))}


def _say_what_is_left_out(persons: Sequence[int]) -> None:
    """Junk and distractors are no persons; a warning where 0 looks like one, in a set that is numbered from 0."""
    counts = Counter(persons)
    if left_out := sum(count for person, count in counts.items() if person <= DISTRACTOR):
        log.info("%d source images of persons -1 and 0 (junk, distractors) are left out.", left_out)
    nobody, known = counts[DISTRACTOR], sorted(count for person, count in counts.items() if person > DISTRACTOR)
    if nobody and known and known[0] <= 2 * nobody and nobody <= 2 * known[-1]:
        log.warning(
            "Person 0 has %d source images, about as many as the others (%d to %d), and is left out, since 0 means a "
            "distractor: if it is a person, number persons from 1.",
            nobody,
            known[0],
            known[-1],
        )


class SourceView(TrainingView):
    """Originals, translations, or both; ``index`` is the position in the data set, that of both versions.

    Attributes:
        persons, cameras: Of each sample, counted from 0.
    """

    def __init__(
        self, dataset: PersonDataset, augment: Augmentation, cache: bool, translated: str | None, keep_originals: bool
    ) -> None:
        super().__init__(dataset, augment, cache)
        known = [index for index, person in enumerate(dataset.persons) if person > DISTRACTOR]
        _say_what_is_left_out(dataset.persons)
        versions: list[tuple[int, Path | None]] = []
        if translated is None or keep_originals:
            versions += [(index, None) for index in known]
        if translated is not None:
            names = [(dataset.name(index),) for index in known]
            folder = Path(translated).expanduser()
            versions += zip(known, made_files(folder, names, "translations", "data.translated"), strict=True)
        self.versions = versions
        if translated is not None:
            self.details = {"images": "originals and translations" if keep_originals else "translations"}
        self.persons = numbered([dataset.persons[index] for index, _ in versions])
        self.cameras = numbered([dataset.cameras[index] for index, _ in versions])

    def __len__(self) -> int:
        return len(self.versions)

    def augmented(self, index: int) -> Item:
        place, file = self.versions[index]
        image = self.augment(self.read(place, file))
        return {"image": image, "person": self.persons[index], "camera": self.cameras[index], "index": place}


class TargetView(TrainingView):
    """Real images, or as any camera would have seen them.

    Attributes:
        cameras: Of each image, counted from 0.
        styles: What images look like to other cameras; ``None`` shows them as they are.
    """

    def __init__(self, dataset: PersonDataset, augment: Augmentation, cache: bool) -> None:
        super().__init__(dataset, augment, cache)
        self.cameras = numbered(dataset.cameras)
        self.styles: CameraStyles | None = None

    def augmented(self, index: int) -> Item:
        file = self.styles.drawn(index) if self.styles else None
        return {"image": self.augment(self.read(index, file)), "camera": self.cameras[index], "index": index}


def numbered(numbers: Sequence[int]) -> list[int]:
    """``numbers`` replaced by 0, 1, ... in their order of size."""
    places = {number: place for place, number in enumerate(sorted(set(numbers)))}
    return [places[number] for number in numbers]
