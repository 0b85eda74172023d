"""Image files read: upright, in RGB, no larger than the memory, or one sentence about what is wrong."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, features
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from da_lightning.errors import DataError, UserError
from da_lightning.reading import UnreadableFile, kind_of, open_file, why_no_file

AVIF = bool(features.check("avif"))
"""Whether this Pillow reads it."""

# Pillow knows more, some of which start programs, like EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF", *(["AVIF"] if AVIF else []))

DEFAULT_MEGAPIXELS = 178.956970
"""Pillow's own limit: a small file can unpack to fill the memory."""

_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that exchange width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; whatever goes wrong inside the ``with`` (a truncated file shows only on decoding) names it.

    Raises:
        DataError: The file is missing, no regular file, truncated, no image, or larger than ``DA_MAX_MEGAPIXELS``.
    """
    try:
        with open_file(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, of sizes: without a file's name
            limit = max_megapixels()
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, round(limit * 1e6) // 2 + 1)  # refuses twice that
            with Image.open(file, formats=_FORMATS) as image:
                if (pixels := image.width * image.height) > limit * 1e6:
                    raise _too_large(path, pixels)
                yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        raise _too_large(path, int(found[0]) if found else 0) from None
    except UnreadableFile as error:
        remedy = "mend or remove it" if why_no_file(path) else "replace or remove it"
        raise DataError(f"{path} cannot be read as an image ({error}): {remedy}.") from None
    except MemoryError:
        raise DataError(f"{path} does not fit into the memory: make the image smaller.") from None
    except Exception as error:  # Pillow raises of all kinds: TypeError, struct.error, KeyError, ...
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | IndexError) else str(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is {kind_of(path) or 'of no known format'}"
        raise DataError(
            f"{path} cannot be read as an image ({' '.join(reason.split()) or type(error).__name__}): it is damaged or "
            "of another kind, replace or remove it."
        ) from error


def max_megapixels() -> float:
    """The largest image that is read, from the environment variable ``DA_MAX_MEGAPIXELS``.

    Raises:
        UserError: The variable is no positive number.
    """
    text = os.environ.get("DA_MAX_MEGAPIXELS", "").strip() or str(DEFAULT_MEGAPIXELS)
    if not re.fullmatch(r"\d+(\.\d*)?", text) or not 0 < float(text) <= 1e6:
        raise UserError(
            f"DA_MAX_MEGAPIXELS={text} is no number of megapixels from 0 to 1,000,000: set it to 200 or so."
        )
    return float(text)


def _too_large(path: Path, pixels: int) -> DataError:
    found, limit = pixels / 1e6, max_megapixels()
    return DataError(
        f"{path} has {found:,.1f} megapixels, and the limit is {limit:,.1f}, since a small file can unpack to fill the "
        f"memory: make the image smaller, or set the environment variable DA_MAX_MEGAPIXELS={int(found) + 1}."
    )


def read_image(path: Path) -> Tensor:
    """Read an image as uint8 RGB ``[3, H, W]``, turned upright as its EXIF orientation says.

    Of a damaged EXIF the orientation is taken if it can be read. An animation gives its first frame.

    Raises:
        DataError: The file is missing, truncated, no image or has 16 or 32 bits a pixel.
    """
    with open_image(path) as image:
        check_depth(path, image.mode)
        image.load()  # first: Pillow turns TIFF files itself, and then they have no orientation any more
        turn = _TURNS.get(_orientation(image))
        pixels = image.convert("RGB")
        return pil_to_tensor(pixels if turn is None else pixels.transpose(turn))


def upright_sizes(files: Sequence[Path]) -> list[tuple[int, int]]:
    """(H, W) of image files as :func:`read_image` gives them, from their headers; links to slow disks overlap.

    Raises:
        DataError: One that is damaged.
    """

    def size(file: Path) -> tuple[int, int]:
        with open_image(file) as image:
            width, height = upright_size(image)
        return height, width

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(size, files))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height, turned as the EXIF orientation says."""
    width, height = image.size
    if image.format == "TIFF":  # Pillow has turned it already
        return width, height
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # it may stand at the end of the file
    return (height, width) if _orientation(image) in _LYING else (width, height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing or cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return int(found) if found in range(1, 9) else 1
    except Exception:
        return 1


def check_depth(path: Path, mode: str) -> None:
    """Check that pixels of Pillow's ``mode`` have 8 bits a channel.

    Raises:
        DataError: They have 16 or 32.
    """
    if mode[0] in "IF":
        raise DataError(f"{path} has mode {mode}, not 8 bits a channel: convert it to 8 bits.")
