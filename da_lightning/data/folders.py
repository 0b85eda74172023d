"""Folders as users have them: images found, listed, paired and read, or one sentence about what is wrong."""

import logging
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, features
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from da_lightning.errors import DataError, UserError
from da_lightning.reading import EmptyFile, UnreadableFile, kind_of, open_file, read_text, why_no_file

log = logging.getLogger(__name__)

_AVIF = bool(features.check("avif"))
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tif", ".tiff", *([".avif"] if _AVIF else [])),
)
_OTHER_SUFFIXES = frozenset(  # pictures that are not read, and are not passed over without a word
    (".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".svg", ".pdf", ".psd", ".eps", ".ico")
    + (".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".pfm", ".pam", ".dds")
    + (".pcx", ".dcm", ".nii")
) - set(IMAGE_SUFFIXES)
# Pillow knows more, some of which start programs, like EPS.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF", *(["AVIF"] if _AVIF else []))
_LONGEST_LIST = 2**28  # bytes

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


def find_images(root: Path, folder: str = "", ending: str = "") -> dict[str, Path]:
    """Find the image files at any depth under ``root/folder``, through links, except hidden ones.

    Each real folder is looked through once, under its own name if it lies there, else under that of the first link to
    it. A link to a folder above ``root/folder`` is not followed. Links that are left out are a warning, as are pictures
    in formats that are not read.

    Args:
        root: The data set's folder.
        folder: Where under ``root`` to look.
        ending: What a file name must end in before its suffix, e.g. ``_leftImg8bit``.

    Returns:
        Files by name, sorted; a name is the path under ``folder`` without ``ending`` and suffix: ``aachen/000019``.

    Raises:
        DataError: No such folder, no such file in it, two files of one name, a folder that cannot be opened, a link
            that leads nowhere, or an image that is no regular file.
    """
    top = root / folder
    files: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in _files_below(top, ending) if (is_folder := _is_folder(top)) else ():
        stem, suffix = os.path.splitext(path.name)
        if suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending):
            name = (path.parent.relative_to(top) / stem.removesuffix(ending)).as_posix()
            if files.setdefault(name, path) is not path:
                raise DataError(f"{files[name]} and {path} would both be called {name}: remove or rename one.")
        elif suffix.lower() in _OTHER_SUFFIXES:
            others[suffix.lower()] += 1
    unread = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    if not files:
        found = f"has none but {unread}, which are not read" if unread else "has none"
        raise DataError(
            f"Image files (*{ending}.png, .jpg, ...) were expected in {top}, which "
            f"{found if is_folder else 'does not exist'} ({_contents(top)}): "
            f"{'convert them to .png or .jpg' if unread else _remedy(top, folder)}."
        )
    if others:
        _warn(f"{top} also holds {unread}, which are passed over: convert them to .png or .jpg to use them.")
    return dict(sorted(files.items()))


def _files_below(top: Path, ending: str) -> Iterator[Path]:
    """Regular files that are not hidden, through links."""
    above = {_identity(folder) for folder in top.resolve().parents}
    seen: set[tuple[int, int]] = set()
    folders, links = deque([top]), deque[Path]()
    left_out = []
    while folders or links:
        place = folders.popleft() if folders else links.popleft()  # links last: a folder goes by its own name
        if (identity := _identity(place)) in seen | above:
            left_out.append(place)
            continue
        seen.add(identity)
        try:
            with os.scandir(place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            raise _no_access(place, error) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = place / entry.name
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(path)
                elif entry.is_file():
                    yield path
                elif _is_wanted(entry, ending):
                    raise DataError(f"{path} cannot be read ({why_no_file(path)}): mend or remove it.")
            except OSError as error:
                raise _no_access(path, error) from None
    if left_out:
        _warn(
            f"{len(left_out)} links in {top} lead to folders above it or to ones that it holds already, the first is "
            f"{left_out[0]}: each folder is read once."
        )


def _is_wanted(entry: os.DirEntry[str], ending: str) -> bool:
    """Whether something that is neither file nor folder, or leads nowhere, would have been an image or a folder."""
    stem, suffix = os.path.splitext(entry.name)
    return (suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending)) or (entry.is_symlink() and not suffix)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a folder above it that this user may not enter
        raise _no_access(path, error) from None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise _no_access(folder, error) from None
    return status.st_dev, status.st_ino


def _no_access(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be opened ({error.strerror or error}): give this user the right to read it and all folders "
        "above it, or move it out of the data set."
    )


def _remedy(top: Path, folder: str) -> str:
    place = next((place for place in (top, *top.parents) if place.exists()), top)
    if place.is_file():
        what = kind_of(place)
        if "archive" in what:
            return f"{place} is {what}, not a folder; unpack it and let root be the folder that comes out"
        return f"{place} is {what or 'a file'}, not a folder; let root be the folder that holds it"
    return f"complete it, or let root be the folder that holds {folder}" if folder else "check the path"


@lru_cache(maxsize=1024)  # sets are built again and again
def _warn(message: str) -> None:
    log.warning("%s", message)


def check_pairs(images: Mapping[str, Path], labels: Mapping[str, Path]) -> None:
    """Check that images and labels have the same names.

    Raises:
        DataError: An image without a label, or the reverse.
    """
    for these, those, kind, other in ((images, labels, "images", "label"), (labels, images, "labels", "image")):
        if lonely := [name for name in these if name not in those]:
            raise DataError(
                f"{len(lonely)} of {len(these)} {kind} have no {other} of the same name, the first is "
                f"{these[lonely[0]]}: complete the folders, or name the wanted images in a list_file."
            )


def read_list(path: Path) -> list[tuple[str, list[str]]]:
    """Read a list file: columns separated by a tab if the line has one, else by spaces; empty lines are skipped.

    Returns:
        For each line its place (``Line 3 of train.txt``, for messages) and its columns.

    Raises:
        DataError: The file is missing, empty or no text.
    """
    try:
        # Only line ends: str.splitlines knows others, which may be part of a name.
        lines = read_text(path, _LONGEST_LIST).replace("\r\n", "\n").split("\n")
    except EmptyFile:
        lines = []
    except UnreadableFile as error:
        raise DataError(
            f"The list file {path} cannot be read as text ({error}); {_contents(path.parent)}: set list_file to a text "
            "file with one image a line."
        ) from error
    rows = [
        (f"Line {number} of {path}", line.split("\t") if "\t" in line else re.split(" +", line))
        for number, line in enumerate((line.strip(" \t\r") for line in lines), 1)
        if line
    ]
    if not rows:
        raise DataError(f"The list file {path} names nothing: write one image a line into it.")
    return rows


def select_images(images: Mapping[str, Path], list_file: Path, folder: str = "", ending: str = "") -> dict[str, Path]:
    """Keep the images that a list file names, in its order.

    Args:
        images: What ``find_images(root, folder, ending)`` found.
        list_file: One image a line, as a path under ``root/folder`` or under ``root``, with or without ``ending`` and
            suffix; further columns are ignored, but a name may hold spaces.
        folder, ending: As given to :func:`find_images`.

    Raises:
        DataError: A line that names no image, or one that is named twice.
    """

    def name_of(column: str) -> str:
        stem, suffix = os.path.splitext(column.removeprefix("./"))
        stem = stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix
        return stem.removeprefix(f"{folder}/").removesuffix(ending)

    chosen: dict[str, Path] = {}
    for place, columns in read_list(list_file):
        line, column = " ".join(columns), columns[0]
        name = name_of(line if name_of(line) in images else column)
        if name not in images:
            raise DataError(
                f"{place} names {column}, which is not among the {len(images)} images found (the first is "
                f"{next(iter(images.values()))}): write paths relative to root, or complete the folder."
            )
        if name in chosen:
            raise DataError(f"{place} names {column} a second time: name each image once.")
        chosen[name] = images[name]
    return chosen


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
    """Of EXIF, 1 to 8; 1 (upright) where there is none that can be read."""
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


def _contents(folder: Path, shown: int = 5) -> str:
    """What ``folder``, or its nearest parent that exists, holds."""
    while not folder.is_dir():
        folder = folder.parent
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"{folder} cannot be opened: {error.strerror or error}"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{folder} holds {', '.join(names[:shown]) or 'nothing'}{more}"
