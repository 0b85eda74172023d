"""Street scenes in the classes of Cityscapes: 19, or the 16 and 13 of them that SYNTHIA and other cities share."""

from pathlib import Path
from typing import Literal

from da_lightning.errors import DataError
from da_lightning.segmentation.datasets.base import FileDataset, folder_samples

_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of road ... bicycle
_SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11)
_KEPT = {
    19: range(19),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),  # without terrain, truck, train
    13: (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),  # also without wall, fence, pole
}


def _classes(ids: tuple[int, ...] | range, num_classes: int) -> dict[int, int]:
    """Classes of the ids of the 19 classes; those left out of the 16 or 13 are ignored."""
    if num_classes not in _KEPT:
        raise DataError(f"num_classes={num_classes} is no class space of Cityscapes: choose 19, 16 or 13.")
    return {ids[train_id]: position for position, train_id in enumerate(_KEPT[num_classes])}


class Cityscapes(FileDataset):
    """``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/<split>/<city>/*_gtFine_labelIds.png``.

    Args:
        root: The folder that holds ``leftImg8bit``.
        split: ``train``, ``val`` or ``test`` (whose public labels are empty).
        num_classes: 19, 16 (as SYNTHIA) or 13.
        labelled: Whether items have labels.
        list_file: The images to take, one a line; ``None`` takes all.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_classes: Literal[19, 16, 13] = 19,
        labelled: bool = True,
        list_file: str | None = None,
    ) -> None:
        folders = f"leftImg8bit/{split}", f"gtFine/{split}"
        samples = folder_samples(root, *folders, labelled, list_file, "_leftImg8bit", "_gtFine_labelIds")
        super().__init__(samples, num_classes, _classes(_CITYSCAPES_IDS, num_classes), range(34))


class GTA5(FileDataset):
    """``images/*.png`` and ``labels/*.png``, whose palette indices are Cityscapes ids; arguments as `Cityscapes`.

    Playing for Data, Richter et al., ECCV 2016.
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: Literal[19, 16, 13] = 19,
        labelled: bool = True,
        list_file: str | None = None,
    ) -> None:
        samples = folder_samples(root, "images", "labels", labelled, list_file)
        super().__init__(samples, num_classes, _classes(_CITYSCAPES_IDS, num_classes), range(35))  # 34: licence plate


class SYNTHIA(FileDataset):
    """SYNTHIA-RAND-CITYSCAPES: ``RGB/*.png`` and ``GT/LABELS/*.png``, ids in the red channel of 16-bit colour images.

    Terrain, truck and train do not occur. Arguments as `Cityscapes`, and

    Args:
        labels: Label folder; ``parsed_LABELS`` and other one-channel files with SYNTHIA ids are read as well.
    """

    def __init__(
        self,
        root: str | Path,
        num_classes: Literal[19, 16, 13] = 16,
        labelled: bool = True,
        list_file: str | None = None,
        labels: str = "GT/LABELS",
    ) -> None:
        samples = folder_samples(root, "RGB", labels, labelled, list_file)
        super().__init__(samples, num_classes, _classes(_SYNTHIA_IDS, num_classes), range(23), in_red=True)


class CrossCity(FileDataset):
    """NTHU's cities: ``<city>/Images/<Split>/*`` and, for test, ``<city>/Labels/Test/*_eval.png`` with Cityscapes ids.

    No More Discrimination, Chen et al., ICCV 2017. Arguments as `Cityscapes`, and

    Args:
        root: The folder that holds ``Rome``, ``Rio``, ``Tokyo`` and ``Taipei``.
        split: ``train`` (which has no labels) or ``test``.
    """

    def __init__(
        self,
        root: str | Path,
        city: Literal["Rome", "Rio", "Tokyo", "Taipei"],
        split: Literal["train", "test"] = "train",
        num_classes: Literal[19, 16, 13] = 13,
        labelled: bool = False,
        list_file: str | None = None,
    ) -> None:
        folders = f"{city}/Images/{split.title()}", f"{city}/Labels/{split.title()}"
        samples = folder_samples(root, *folders, labelled, list_file, label_ending="_eval")
        super().__init__(samples, num_classes, _classes(_CITYSCAPES_IDS, num_classes), range(34))


class BDD100K(FileDataset):
    """``images/10k/<split>/*.jpg`` and ``labels/sem_seg/masks/<split>/*.png``, ids 0-18; arguments as `Cityscapes`.

    Where ``root`` holds ``seg``, the older ``seg/images/<split>/*.jpg`` and ``seg/labels/<split>/*_train_id.png``.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_classes: Literal[19, 16, 13] = 19,
        labelled: bool = True,
        list_file: str | None = None,
    ) -> None:
        folders, ending = (f"images/10k/{split}", f"labels/sem_seg/masks/{split}"), ""
        if (Path(root).expanduser() / "seg").is_dir():
            folders, ending = (f"seg/images/{split}", f"seg/labels/{split}"), "_train_id"
        samples = folder_samples(root, *folders, labelled, list_file, label_ending=ending)
        super().__init__(samples, num_classes, _classes(range(19), num_classes), range(19))
