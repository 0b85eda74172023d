"""Street scenes in the 11 classes of CamVid: by list files (CamVid, Streets3D) and from CARLA's cameras."""

from pathlib import Path, PurePosixPath

from torch import Tensor

from da_lightning.data.folders import read_list
from da_lightning.errors import DataError
from da_lightning.reading import why_no_file
from da_lightning.segmentation.datasets.base import FileDataset, Sample, folder_samples
from da_lightning.segmentation.losses import IGNORE

_NUM_CLASSES = 11
_CARLA_TAGS = {1: 1, 2: 7, 4: 9, 5: 2, 6: 3, 7: 3, 8: 4, 9: 5, 10: 8, 11: 1, 12: 6}  # road lines: road; walls: building


class CamVid(FileDataset):
    """CamVid with 11 classes (as SegNet has it), and whatever has its list files and ids, as Streets3D.

    A line is ``image label`` or ``image``, relative to ``root``; a label not named is ``trainannot/x.png`` for
    ``train/x.jpg``.

    Args:
        root: The folder that holds ``train``, ``trainannot`` and the list files.
        list_file: The images to take, relative to ``root``.
        labelled: Whether items have labels.

    Raises:
        DataError: A line whose image or label does not exist, or an image that is named twice.
    """

    def __init__(self, root: str | Path, list_file: str = "train.txt", labelled: bool = True) -> None:
        root = Path(root).expanduser()
        samples: dict[str, Sample] = {}
        for place, columns in read_list(root / Path(list_file).expanduser()):
            # The lists as published begin each path with where SegNet's authors had it.
            image, *rest = (PurePosixPath(column.removeprefix("/SegNet/CamVid/")) for column in columns)
            files = [image]
            if labelled:
                files += rest[:1] or [image.parent.parent / f"{image.parent.name}annot" / f"{image.stem}.png"]
            for file in files:
                if reason := why_no_file(root / file):
                    raise DataError(
                        f"{place} needs {root / file}, but {reason}: complete the folder or correct the line."
                    )
            name = "/".join(part for part in image.with_suffix("").parts if part not in ("/", ".."))
            if name in samples:
                raise DataError(f"{place} names {image} a second time: name each image once.")
            samples[name] = Sample(name, root / image, root / files[1] if labelled else None)
        super().__init__(list(samples.values()), _NUM_CLASSES, {i: i for i in range(_NUM_CLASSES)}, [_NUM_CLASSES])


class CARLA(FileDataset):
    """CARLA 0.8: ``<split>/CameraRGB/*.png`` and ``<split>/CameraSeg/*.png``, as in Lyft's Perception Challenge.

    Tags are in the red channel. Sky and Bicyclist have no tag and do not occur. Dosovitskiy et al., CoRL 2017.

    Args:
        root: The folder that holds the splits.
        split: ``train`` or ``val``.
        labelled: Whether items have labels.
        list_file: The images to take, one a line; ``None`` takes all.
        ignore_bottom: Rows at the bottom whose label is ignored: the own car's bonnet, 100 of Lyft's 600.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        labelled: bool = True,
        list_file: str | None = None,
        ignore_bottom: int = 100,
    ) -> None:
        samples = folder_samples(root, f"{split}/CameraRGB", f"{split}/CameraSeg", labelled, list_file)
        super().__init__(samples, _NUM_CLASSES, _CARLA_TAGS, range(13), in_red=True)
        self.ignore_bottom = ignore_bottom

    def _read_label(self, path: Path) -> Tensor:
        label = super()._read_label(path)
        label[max(0, len(label) - self.ignore_bottom) :] = IGNORE
        return label
