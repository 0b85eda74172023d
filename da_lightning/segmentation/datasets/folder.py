"""Anyone's own images and labels."""

from pathlib import Path

from da_lightning.errors import DataError
from da_lightning.segmentation.datasets.base import FileDataset, folder_samples
from da_lightning.segmentation.losses import IGNORE


class ImageLabelFolder(FileDataset):
    """A folder of images and one of one-channel (or palette) label files of the same names, at any depth.

    Args:
        root: The folder that holds both.
        num_classes: Size of the class space.
        ids: Class 0..num_classes-1, or 255 for ignore, of each id in the label files; others are refused. ``None``: ids
            are classes.
        images, labels: Folders under ``root``.
        labelled: Whether items have labels.
        list_file: The images to take, one a line; ``None`` takes all.
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: int,
        ids: dict[int, int] | None = None,
        images: str = "images",
        labels: str = "labels",
        labelled: bool = True,
        list_file: str | None = None,
    ) -> None:
        ids = {i: i for i in range(num_classes)} if ids is None else ids
        for number, class_id in ids.items():
            if number not in range(2**16) or class_id not in (*range(num_classes), IGNORE):
                raise DataError(
                    f"ids maps {number} to {class_id}: map 0-65535 to 0-{num_classes - 1} or, for ignore, 255."
                )
        super().__init__(folder_samples(root, images, labels, labelled, list_file), num_classes, ids)
