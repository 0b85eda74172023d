"""Folders as users have them: images found, listed and paired, or one sentence about what is wrong."""

import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

from da_lightning.data.images import AVIF
from da_lightning.errors import DataError
from da_lightning.reading import EmptyFile, UnreadableFile, kind_of, read_text, why_no_file

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".tif", ".tiff", *([".avif"] if AVIF else [])),
)
_OTHER_SUFFIXES = frozenset(  # pictures that are not read, and are not passed over without a word
    (".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".svg", ".pdf", ".psd", ".eps", ".ico")
    + (".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".pfm", ".pam", ".dds")
    + (".pcx", ".dcm", ".nii")
) - set(IMAGE_SUFFIXES)
_LONGEST_LIST = 2**28  # bytes


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
    with _access(top):  # a folder above it may be one that this user may not enter
        is_folder = top.is_dir()
    for path in _files_below(top, ending) if is_folder else ():
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
        with _access(place), os.scandir(place) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = place / entry.name
            with _access(path):
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder:
                (links if entry.is_symlink() else folders).append(path)
            elif is_file:
                yield path
            elif _is_wanted(entry, ending):
                raise DataError(f"{path} cannot be read ({why_no_file(path)}): mend or remove it.")
    if left_out:
        _warn(
            f"{len(left_out)} links in {top} lead to folders above it or to ones that it holds already, the first is "
            f"{left_out[0]}: each folder is read once."
        )


def _is_wanted(entry: os.DirEntry[str], ending: str) -> bool:
    """Whether something that is neither file nor folder, or leads nowhere, would have been an image or a folder."""
    stem, suffix = os.path.splitext(entry.name)
    return (suffix.lower() in IMAGE_SUFFIXES and stem.endswith(ending)) or (entry.is_symlink() and not suffix)


def _identity(folder: Path) -> tuple[int, int]:
    with _access(folder):
        status = folder.stat()
    return status.st_dev, status.st_ino


@contextmanager
def _access(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be opened ({error.strerror or error}): give this user the right to read it and all folders "
            "above it, or move it out of the data set."
        ) from None


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


def listed_file(root: Path, path: str, place: str) -> PurePosixPath:
    """The path under ``root`` that ``place``, a line of a list, calls ``path``.

    Raises:
        DataError: No file under ``root``.
    """
    relative = PurePosixPath(path)
    is_outside = relative.is_absolute() or ".." in relative.parts
    if reason := "it leads out of it" if is_outside else why_no_file(root / relative):
        raise DataError(
            f"{place} names {path}, which is no file in {root} ({reason}): write paths relative to it, or complete it."
        )
    return relative


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
