"""What all segmentation data sets share: samples with names, and label ids mapped to classes by a lookup table."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from da_lightning.data.folders import check_pairs, find_images, select_images
from da_lightning.data.images import open_image, read_image, upright_size
from da_lightning.data.labels import read_ids
from da_lightning.data.named import NamedDataset
from da_lightning.errors import DataError
from da_lightning.segmentation.losses import IGNORE

_UNKNOWN = 254  # marks ids that the table does not know; no class space is that large


class Sample(NamedTuple):
    """One image by its unique relative name; ``label`` is None where labels are not to be read."""

    name: str
    image: Path
    label: Path | None


class SegmentationDataset(NamedDataset):
    """Items are ``{"image": uint8 [3, H, W] RGB, "label": uint8 [H, W] class ids, 255 = ignore}``, in full size.

    Attributes:
        num_classes: Size K of the class space.
        labelled: Whether items have ``label``; otherwise it is absent and label files are never looked for.
    """

    num_classes: int
    labelled: bool

    def check_sizes(self) -> set[tuple[int, int]]:
        """Compare the sizes of images and labels, by which a training would else fail late.

        Returns:
            (H, W) of all labels; empty where they are not known.

        Raises:
            DataError: Two that differ.
        """
        return set()


class FileDataset(SegmentationDataset):
    """Images and label files; subclasses list samples and say which id in a label file is which class.

    Args:
        samples: All labelled or all not.
        num_classes: Size K of the class space.
        ids: Class 0..K-1, or 255, of each id in the label files.
        ignored: Ids that are known but no class, besides 255. All others are refused.
        in_red: Whether labels may be colour images with the ids in their red channel.

    Raises:
        DataError: On reading: a damaged file, an unknown id, or an image and a label that differ in size.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        num_classes: int,
        ids: Mapping[int, int],
        ignored: Iterable[int] = (),
        in_red: bool = False,
    ) -> None:
        self.samples = samples
        self.num_classes = num_classes
        self.labelled = samples[0].label is not None
        self.in_red = in_red
        self.table = np.full(2**16, _UNKNOWN, np.uint8)
        self.table[[*ignored, IGNORE]] = IGNORE
        self.table[list(ids)] = list(ids.values())

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        return self.samples[index].name

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.samples[index]
        image = read_image(sample.image)
        if sample.label is None:
            return {"image": image}
        label = self._read_label(sample.label)
        self._check_size(sample, (image.shape[2], image.shape[1]), (label.shape[1], label.shape[0]))
        return {"image": image, "label": label}

    def check_sizes(self) -> set[tuple[int, int]]:
        def label_size(sample: Sample) -> tuple[int, int]:
            with open_image(sample.image) as image, open_image(cast(Path, sample.label)) as label:
                self._check_size(sample, upright_size(image), label.size)
                return label.size[1], label.size[0]

        with ThreadPoolExecutor(8) as pool:  # the disk may be a network away
            return set(pool.map(label_size, (sample for sample in self.samples if sample.label is not None)))

    @staticmethod
    def _check_size(sample: Sample, image: tuple[int, int], label: tuple[int, int]) -> None:
        if image != label:
            raise DataError(
                f"{sample.image} is {image[0]}x{image[1]} but its label {sample.label} is {label[0]}x{label[1]}: "
                "replace one, they must be of one size."
            )

    def _read_label(self, path: Path) -> Tensor:
        ids = read_ids(path, self.in_red)
        classes = self.table[ids]
        if (unknown := classes == _UNKNOWN).any():
            raise DataError(
                f"{path} holds the ids {np.unique(ids[unknown])[:9].tolist()}, but those of {type(self).__name__} are "
                f"{np.flatnonzero(self.table != _UNKNOWN).tolist()}: check that it is a map of ids of this data set."
            )
        return torch.from_numpy(classes)


def folder_samples(
    root: str | Path,
    images: str,
    labels: str,
    labelled: bool,
    list_file: str | None,
    image_ending: str = "",
    label_ending: str = "",
) -> list[Sample]:
    """Pair the images in one folder with the labels in another by name; unlabelled, only the images are looked at.

    Args:
        root: The data set's folder.
        images, labels: Folders under ``root``.
        labelled: Whether to look for labels.
        list_file: Which images to take, see :func:`~da_lightning.data.folders.select_images`; relative to ``root``.
        image_ending, label_ending: What file names end in before the suffix; the rest is the name.

    Raises:
        DataError: A missing or empty folder, an image without a label, without ``list_file`` also the reverse.
    """
    root = Path(root).expanduser()
    image_files = find_images(root, images, image_ending)
    if list_file is not None:
        image_files = select_images(image_files, root / Path(list_file).expanduser(), images, image_ending)
    if not labelled:
        return [Sample(name, path, None) for name, path in image_files.items()]
    label_files = find_images(root, labels, label_ending)
    if list_file is not None:
        label_files = {name: path for name, path in label_files.items() if name in image_files}
    check_pairs(image_files, label_files)
    return [Sample(name, path, label_files[name]) for name, path in image_files.items()]
