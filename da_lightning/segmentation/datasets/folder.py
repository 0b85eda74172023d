"""Anyone's own images and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from da_lightning.arguments import Colour
from da_lightning.data.labels import read_colours
from da_lightning.errors import DataError
from da_lightning.segmentation.datasets.base import FileDataset, folder_samples
from da_lightning.segmentation.losses import IGNORE


class ImageLabelFolder(FileDataset):
    """A folder of images and one of label files of the same names, at any depth.

    Args:
        root: The folder that holds both.
        num_classes: Size of the class space.
        ids: Class 0..num_classes-1, or 255 for ignore, of each id in the label files; others are refused. ``None``: ids
            are classes.
        images, labels: Folders under ``root``.
        labelled: Whether items have labels.
        list_file: The images to take, one a line; ``None`` takes all.
        label_format: ``ids``: one channel, or a palette whose indices are ids. ``colours``: RGB, or a palette, whose
            colours say the class.
        colours: For ``label_format=colours``: the RGB values (0..255) of each class, in the order of class ids.
        ignored_colours: RGB values that are known but no class. Others than these and ``colours`` are refused.

    Raises:
        DataError: A missing folder or file, an id or a colour that two classes share. On reading: see
            :class:`~da_lightning.segmentation.datasets.base.FileDataset`; an unknown colour.
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: int,
        ids: Mapping[int, int] | None = None,
        images: str = "images",
        labels: str = "labels",
        labelled: bool = True,
        list_file: str | None = None,
        label_format: Literal["ids", "colours"] = "ids",
        colours: Sequence[Sequence[Colour]] | None = None,
        ignored_colours: Sequence[Colour] = (),
    ) -> None:
        self.classes_of_colours = {}
        if label_format == "colours":
            self.classes_of_colours, ids = _by_colour(num_classes, colours or (), ignored_colours), {}
        ids = {i: i for i in range(num_classes)} if ids is None else ids
        for number, class_id in ids.items():
            if number not in range(2**16) or class_id not in (*range(num_classes), IGNORE):
                raise DataError(
                    f"ids maps {number} to {class_id}: map 0-65535 to 0-{num_classes - 1} or, for ignore, 255."
                )
        if labelled and label_format == "ids" and not ids:
            raise DataError(
                "Expected ids for the classes, since label_format=ids, but found none: give them, or "
                "label_format=colours where colours say the class."
            )
        super().__init__(folder_samples(root, images, labels, labelled, list_file), num_classes, ids)

    def _read_label(self, path: Path) -> Tensor:
        if not self.classes_of_colours:
            return super()._read_label(path)
        colours = read_colours(path)
        found, places = np.unique(colours, return_inverse=True)
        classes = [self.classes_of_colours.get(colour) for colour in found.tolist()]
        if None in classes:
            number = classes.index(None)
            red, green, blue = (int(found[number]) >> shift & 255 for shift in (16, 8, 0))
            raise DataError(
                f"{path} has the colour [{red}, {green}, {blue}], which is no class's, on "
                f"{(places == number).mean():.1%} of its pixels: add it to a class's colours or to the ignored ones."
            )
        return torch.from_numpy(np.array(classes, np.uint8)[places].reshape(colours.shape))


def _by_colour(num_classes: int, colours: Sequence[Sequence[Colour]], ignored: Sequence[Colour]) -> dict[int, int]:
    """Class of each colour, which is R * 65536 + G * 256 + B."""
    if len(colours) != num_classes or not all(colours):
        raise DataError(
            f"Expected one or more colours for each of {num_classes} classes, since label_format=colours, but found "
            f"{sum(map(bool, colours))}: give colours, or label_format=ids."
        )
    result: dict[int, int] = {}
    for class_id, own in (*enumerate(colours), (IGNORE, ignored)):
        for red, green, blue in own:
            other = result.setdefault(red << 16 | green << 8 | blue, class_id)
            if other != class_id:
                names = ["the ignored ones" if i == IGNORE else f"class {i}" for i in (other, class_id)]
                raise DataError(
                    f"The colour [{red}, {green}, {blue}] stands for {names[0]} and for {names[1]}: give it to one."
                )
    return result
