"""Folders as users have them: images found, listed, paired and read, or one sentence about what is wrong."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from da_lightning.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")

_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF tag, and its values that exchange width and height


def find_images(root: Path, folder: str = "", ending: str = "") -> dict[str, Path]:
    """Find the image files at any depth under ``root/folder``, through links, except hidden ones.

    Args:
        root: The data set's folder.
        folder: Where under ``root`` to look.
        ending: What a file name must end in before its suffix, e.g. ``_leftImg8bit``.

    Returns:
        Files by name, sorted; a name is the path under ``folder`` without ``ending`` and suffix: ``aachen/000019``.

    Raises:
        DataError: No such folder, no such file in it, or two files of one name.
    """
    top = root / folder
    files: dict[str, Path] = {}
    for place, folders, names in os.walk(top, followlinks=True):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]  # os.walk goes by what is left
        here = Path(place).relative_to(top)
        for stem, suffix in map(os.path.splitext, names):
            if suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending) and not stem.startswith("."):
                name, path = (here / stem.removesuffix(ending)).as_posix(), Path(place, stem + suffix)
                if files.setdefault(name, path) is not path:
                    raise DataError(f"{files[name]} and {path} would both be called {name}: remove or rename one.")
    if not files:
        raise DataError(
            f"Image files (*{ending}.png, .jpg, ...) were expected in {top}, which "
            f"{'has none' if top.is_dir() else 'does not exist'} ({_contents(top)}): "
            f"{f'complete it, or let root be the folder that holds {folder}' if folder else 'check the path'}."
        )
    return dict(sorted(files.items()))


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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list file {path} cannot be read as text ({error}); {_contents(path.parent)}: set list_file to a text "
            "file with one image a line."
        ) from error
    rows = [
        (f"Line {number} of {path}", line.split("\t") if "\t" in line else line.split())
        for number, line in enumerate(map(str.strip, lines), 1)
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
    """Open an image file; what goes wrong inside the ``with`` (a truncated file shows only on decoding) names the file.

    Raises:
        DataError: The file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}): it is damaged or of another kind, replace or remove it."
        ) from error


def read_image(path: Path) -> Tensor:
    """Read an image as uint8 RGB ``[3, H, W]``, turned upright as its EXIF orientation says.

    Raises:
        DataError: The file is missing, truncated, no image or has 16 or 32 bits a pixel.
    """
    with open_image(path) as image:
        check_depth(path, image.mode)
        return pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height, turned as the EXIF orientation says."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _LYING else (width, height)


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
    names = sorted(os.listdir(folder))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{folder} holds {', '.join(names[:shown]) or 'nothing'}{more}"
