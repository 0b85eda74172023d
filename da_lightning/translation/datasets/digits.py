"""Handwritten and street digits from NumPy files."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from da_lightning.errors import DataError
from da_lightning.reading import open_file
from da_lightning.translation.datasets.base import ImageDataset, thinned

_LARGEST = 2**34  # bytes of all arrays of a file, whose content may be packed a thousandfold


class Digits(ImageDataset):
    """An ``.npz`` file with ``images``, uint8 [n, h, w] or [n, h, w, 3], and ``labels``, integers 0 to 9 [n].

    Grey digits become RGB of three equal channels.

    Args:
        root: The folder that holds the file.
        file: Its name.
        labelled: Whether items have labels; if not, ``labels`` is never read.
        centred_in: Side of a black frame into which each digit is laid with its centre of mass in the middle, as those
            of MNIST are; ``None`` leaves it as it is.
        inverted_copies: Have each digit a second time, black for white, as UNIT had MNIST for SVHN.
        limit: Take at most so many, evenly spread over the set.

    Raises:
        DataError: No such file, another kind of file, or arrays that do not fit.
    """

    def __init__(
        self,
        root: str | Path,
        file: str,
        labelled: bool = True,
        centred_in: int | None = None,
        inverted_copies: bool = False,
        limit: int | None = None,
    ) -> None:
        path = Path(root).expanduser() / file
        self.stem, self.labelled = path.stem, labelled
        self.centred_in, self.inverted_copies = centred_in, inverted_copies
        arrays = _read(path, ("images", "labels") if labelled else ("images",))
        images, labels = arrays["images"], arrays.get("labels")
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
            raise DataError(
                f"images in {path} is {images.dtype} {list(images.shape)}: save uint8 [n, height, width] or "
                "[n, height, width, 3]."
            )
        if labels is not None and (
            labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not np.isin(labels, range(10)).all()
        ):
            raise DataError(
                f"labels in {path} is {labels.dtype} {list(labels.shape)} of {np.unique(labels)[:12].tolist()}: save "
                f"{len(images)} integers from 0 to 9 (SVHN's 10 is a 0)."
            )
        if centred_in is not None and max(images.shape[1:3]) > centred_in:
            raise DataError(
                f"The digits in {path} are {images.shape[2]}x{images.shape[1]}, larger than a frame of {centred_in}: "
                "raise centred_in."
            )
        self.indices = thinned(range(len(images)), limit)
        self.images, self.labels = images, labels
        content = blake2b(np.ascontiguousarray(images).data, digest_size=8).hexdigest()  # names are numbers
        self.details = {"images": content, "centred_in": centred_in}

    def __len__(self) -> int:
        return len(self.indices) * (2 if self.inverted_copies else 1)

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of all images, which is one."""
        height, width = self.images.shape[1:3]
        return {(self.centred_in, self.centred_in) if self.centred_in is not None else (height, width)}

    def name(self, index: int) -> str:
        copy, place = divmod(index, len(self.indices))
        return f"{self.stem}_{self.indices[place]:06d}{'_inverted' if copy else ''}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        copy, place = divmod(index, len(self.indices))
        image = self.images[self.indices[place]]
        image = image if self.centred_in is None else centred(image, self.centred_in)
        pixels = Image.fromarray(255 - image if copy else image).convert("RGB")
        item = {"image": pil_to_tensor(pixels)}
        return item if self.labels is None else item | {"label": int(self.labels[self.indices[place]])}


def centred(image: np.ndarray, side: int) -> np.ndarray:
    """Lay ``image`` [h, w(, 3)] into a black frame: its centre of mass in the middle, but no ink cut off."""
    ink = image.reshape(*image.shape[:2], -1).astype(np.int64).sum(-1)
    frame = np.zeros((side, side, *image.shape[2:]), image.dtype)
    into, out_of = [], []
    for length, weights in zip(image.shape[:2], (ink.sum(1), ink.sum(0)), strict=True):
        inked = np.flatnonzero(weights) if weights.any() else np.arange(length)
        first, last = int(inked[0]), int(inked[-1]) + 1
        middle = (weights * np.arange(length)).sum() / weights.sum() if weights.any() else (length - 1) / 2
        start = min(max(round((side - 1) / 2 - middle) + first, 0), side - (last - first))
        into.append(slice(start, start + last - first))
        out_of.append(slice(first, last))
    frame[tuple(into)] = image[tuple(out_of)]
    return frame


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with open_file(path) as file, np.load(file, allow_pickle=False) as content:
            if (size := sum(member.file_size for member in content.zip.infolist())) > _LARGEST:
                raise ValueError(f"its arrays have {size / 2**30:,.0f} GB")
            found, arrays = list(content), {key: content[key] for key in keys if key in content}
    except Exception as error:  # numpy has no common type for what a foreign file does to it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path} cannot be read as an .npz file ({reason}): let root be the folder that holds it, and save it by "
            "np.savez(file, images=..., labels=...)."
        ) from error
    if missing := [key for key in keys if key not in arrays]:
        raise DataError(
            f"{path} has no array {' and no array '.join(missing)} but {', '.join(found)}: save it by "
            "np.savez(file, images=..., labels=...)."
        )
    return arrays
