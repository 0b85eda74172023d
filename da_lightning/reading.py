"""Files as other people have them: regular files only, of a bounded size, and what is wrong with one in words."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_BEGINNINGS = (  # where, what, and which kind of file begins so
    (0, b"version https://git-lfs", "a Git LFS pointer, which `git lfs pull` turns into the file itself"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (4, b"1AY&SY", "a bzip2 archive"),
    (0, b"(\xb5/\xfd", "a zstd archive"),
    (0, b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (0, b"Rar!\x1a", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"II+\0", "a BigTIFF image"),
    (0, b"MM\0+", "a BigTIFF image"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"jP  ", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x93NUMPY", "an .npy array"),
)


class UnreadableFile(OSError):
    """A path that cannot be read as a file; the message is the reason: ``it is a named pipe, not a file``."""


class EmptyFile(UnreadableFile):
    """A file of 0 bytes."""

    def __init__(self) -> None:
        super().__init__("it is empty")


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file that has something in it; never waits, as a named pipe would.

    Raises:
        UnreadableFile: There is none, or it cannot be opened.
    """
    if reason := why_no_file(path):
        raise UnreadableFile(reason)
    try:
        # It may have become another one in the meantime: without waiting, and looked at again.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnreadableFile(_reason(path, error)) from None
    file = os.fdopen(descriptor, "rb")
    status = os.fstat(descriptor)
    problem = _no_file(status.st_mode)
    if problem or not status.st_size:  # what a kernel makes up, like /proc/kmsg, has no size
        file.close()
        raise UnreadableFile(problem) if problem else EmptyFile
    return file


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Content of a regular file of ``limit`` bytes at most.

    Raises:
        UnreadableFile: There is none, it cannot be read, or it is larger.
    """
    try:
        with open_file(path) as file:
            content = file.read(limit + 1)
    except UnreadableFile:
        raise
    except OSError as error:
        raise UnreadableFile(_reason(path, error)) from None
    if len(content) > limit:
        raise UnreadableFile(f"it is larger than {limit / 2**20:,.3g} MB")
    return content


def read_text(path: str | Path, limit: int) -> str:
    """Text of a regular file, in UTF-8, or UTF-16 with its mark; bytes that are not UTF-8 stay as in file names.

    Raises:
        UnreadableFile: See :func:`read_bytes`, and content that is no text.
    """
    content = read_bytes(path, limit)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UnreadableFile(f"it is no text: {error.reason}") from None
    if kind := kind_of_content(content[:512]):
        raise UnreadableFile(f"it is {kind}, not text")
    if b"\0" in content:
        raise UnreadableFile("it is no text: it holds zero bytes")
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def why_no_file(path: str | Path) -> str:
    """Why ``path`` is no regular file, as ``it does not exist``; empty if it is one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return _reason(path, error)
    return _no_file(status.st_mode)


def _no_file(mode: int) -> str:
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "")
    return f"it is {kind}, not a file" if kind else ""


def kind_of(path: str | Path) -> str:
    """``a zip archive`` and the like by a file's first bytes; empty if nothing is known."""
    try:
        with open_file(path) as file:
            return kind_of_content(file.read(512))
    except OSError:
        return ""


def kind_of_content(beginning: bytes) -> str:
    """``a zip archive`` and the like by a file's first 512 bytes; empty if nothing is known."""
    for place, wanted, kind in _BEGINNINGS:
        if beginning[place : place + len(wanted)] == wanted:
            return kind
    text = beginning.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "an SVG drawing" if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text else ""


def _reason(path: str | Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which does not exist"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, NotADirectoryError):
        above = next(folder for folder in Path(path).parents if folder.exists())
        return f"{above} is {kind_of(above) or 'a file'}, not a folder"
    if isinstance(error, PermissionError):
        return "it may not be read by this user: permission denied"
    return str(getattr(error, "strerror", None) or error)
