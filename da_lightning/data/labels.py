"""Label files: ids as they are stored, whatever the number of bits, and written again in another size."""

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFile
from PIL.Image import Resampling

from da_lightning.data.images import open_image
from da_lightning.errors import DataError

_GRAY = ("1", "L", "LA", "P", "PA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LOW_BYTE: dict[Any, Any] = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP"}


def holds_ids(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image has one channel of integers, or one and transparency."""
    return image.mode in _GRAY or _is_gray_alpha_16(image)


def read_ids(path: Path, in_red: bool = False) -> np.ndarray:
    """Read a label file as it is stored, palette indices as indices: uint8 or uint16 ``[H, W]``.

    Gray PNG, TIFF, PGM and BMP files of 1 to 32 bits hold the numbers that are in the file, where Pillow stretches them
    to 255; a mask of one bit is 0 and 1. Transparency is left aside.

    Args:
        path: The file.
        in_red: Accept colour images too and take their red channel; of 16 bits the lower 8.

    Raises:
        DataError: The file is missing, truncated, or an image that holds no ids from 0 to 65535.
    """
    with open_image(path) as image:
        if not holds_ids(image):
            if not in_red or image.mode not in ("RGB", "RGBA"):
                raise DataError(
                    f"{path} has mode {image.mode}, but a label is one channel of ids (of 1 to 32 bits, or a palette): "
                    "take the id files, not those with colours for the eye."
                )
            # Pillow has no 16-bit colour mode and keeps the upper byte; ids are in the lower one.
            image.tile = [tile._replace(args=_LOW_BYTE.get(tile.args, tile.args)) for tile in image.tile]
            return np.array(image)[..., 0]
        ids = _stored(image)
        if ids.min() < 0 or ids.max() > 65535:
            raise DataError(
                f"{path} holds the ids {ids.min()} to {ids.max()}, but ids are from 0 to 65535: number them so, "
                "with 255 for ignored pixels."
            )
        return ids if ids.dtype == np.uint8 else ids.astype(np.uint16)


def read_colours(path: Path) -> np.ndarray:
    """Read a mask whose colours say the class: R * 65536 + G * 256 + B, int32 ``[H, W]``; transparency is left aside.

    Raises:
        DataError: The file is missing or truncated, has one channel, or is a JPEG, whose colours are not those drawn.
    """
    with open_image(path) as image:
        if image.format == "JPEG":
            raise DataError(
                f"{path} is a JPEG, whose colours are not exactly those that were drawn, so that they name no class: "
                "write masks as PNG."
            )
        if image.mode not in ("RGB", "RGBA", "P", "PA"):
            raise DataError(
                f"{path} has mode {image.mode}, but a mask in colours is RGB, or a palette: give label_format=ids for "
                "one channel of ids."
            )
        red, green, blue = np.moveaxis(np.array(image.convert("RGB")).astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def resized_ids(path: Path, size: tuple[int, int]) -> bytes:
    """A label file of another ``size`` (H, W), in its own format and with its palette; each pixel takes the nearest id.

    Raises:
        DataError: See :func:`read_ids`.
    """
    with open_image(path) as image:
        palette = image.getpalette("RGB") if image.mode == "P" else None
    resized = Image.fromarray(read_ids(path)).resize(size[::-1], Resampling.NEAREST)
    if palette:
        resized.putpalette(palette)
    resized.save(content := io.BytesIO(), _FORMATS.get(path.suffix.lower(), "PPM" if "m" in path.suffix else "PNG"))
    return content.getvalue()


def _stored(image: ImageFile.ImageFile) -> np.ndarray:
    """The numbers in the file, which Pillow stretches or inverts for the eye on reading."""
    if image.format == "PPM":
        return _portable_gray(image)
    if image.format == "BMP":
        _undo_gray_palette(image)
    is_alpha_16 = _is_gray_alpha_16(image)
    if is_alpha_16:  # Pillow would keep the upper bytes: take all four as if they were colours
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    raw = _raw_mode(image)
    pixels = np.array(image)
    if is_alpha_16:
        return pixels[..., 0].astype(np.uint16) << 8 | pixels[..., 1]
    if pixels.ndim == 3:
        pixels = pixels[..., 0]
    if image.mode == "1":
        return (pixels != 0).astype(np.uint8) ^ _is_inverted(raw)
    if image.mode == "L" and raw.startswith(("L;2", "L;4")):
        largest = 3 if raw[2] == "2" else 15
        numbers = pixels // (255 // largest)
        return largest - numbers if _is_inverted(raw) else numbers
    return 255 - pixels if image.mode == "L" and _is_inverted(raw) else pixels


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How pixels lie in the file, in Pillow's words, like ``L;2I``: two bits, inverted."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _is_inverted(raw: str) -> bool:
    return "I" in raw.partition(";")[2]


def _is_gray_alpha_16(image: ImageFile.ImageFile) -> bool:
    return image.format == "PNG" and _raw_mode(image) == "LA;16B"


def _undo_gray_palette(image: ImageFile.ImageFile) -> None:
    """Take indices: of a palette of grays Pillow makes gray values, and forgets the number of bits."""
    if image.mode not in ("1", "L") or not image.tile or image.fp is None:
        return
    image.fp.seek(14)
    is_core = int.from_bytes(image.fp.read(4), "little") == 12
    image.fp.seek(24 if is_core else 28)
    bits = int.from_bytes(image.fp.read(2), "little")
    image._mode = "P"
    _, *others = cast(tuple, image.tile[0].args)
    image.tile = [image.tile[0]._replace(args=({1: "P;1", 4: "P;4"}.get(bits, "P"), *others))]


def _portable_gray(image: ImageFile.ImageFile) -> np.ndarray:
    """Of a PGM or PBM file; Pillow stretches to 255, or 65535, what has another largest value."""
    tile, (width, height) = image.tile[0], image.size
    if image.mode == "1":  # 1 is black
        return (np.array(image) == 0).astype(np.uint8)
    largest = tile.args[1] if isinstance(tile.args, tuple) else (65535 if image.mode == "I" else 255)
    if tile.codec_name != "ppm_plain" and image.fp is not None:
        kind = np.dtype(">u2" if image.mode == "I" else np.uint8)
        image.fp.seek(tile.offset)
        content = image.fp.read(width * height * kind.itemsize)
        return np.frombuffer(content, kind, width * height).reshape(height, width)  # ValueError: truncated
    scale = 65535 if image.mode == "I" else 255
    return np.rint(np.array(image).astype(np.float64) * largest / scale).astype(np.uint16)
