"""Fetching a data set's archive: resumed, checked, and unpacked without leaving its folder."""

import hashlib
import logging
import lzma
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from da_lightning.errors import DataError

log = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds without an answer or a byte
ATTEMPTS = 10
PAUSE = 1.0  # seconds before the next attempt
_CHUNK = 2**18
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


def fetched(folder: str | Path, url: str, download: bool = False, sha256: str | None = None) -> str:
    """Make sure that ``folder`` is filled, and return it; what it holds already is left as it is.

    The archive's top folder, if it has a single one, becomes ``folder``. Until all is there, its parts lie in
    ``<folder>.download``, where the next try goes on. Processes that ask at the same time wait for the first.

    Args:
        folder: Of the data set.
        url: Of a tar or zip archive.
        download: Whether it may be fetched.
        sha256: Of the archive, in hexadecimal; ``None`` does not check it.

    Raises:
        DataError: Nothing is there and ``download`` is off, or something goes wrong on the way.
    """
    folder = Path(folder).expanduser().absolute()
    if _is_filled(folder):
        return str(folder)
    if not download:
        raise DataError(
            f"{folder} {'is empty' if folder.is_dir() else 'does not exist'}: let data.root be the data set's folder, "
            f"or add data.download=true to fetch {url} into it."
        )
    work, lock = (folder.with_name(f"{folder.name}.{suffix}") for suffix in ("download", "lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not _is_filled(folder):
                _fill(folder, work, url, sha256)
        lock.unlink(missing_ok=True)  # not after an error: those who wait for it must go on one by one
    except OSError as error:
        raise DataError(f"{folder} cannot be filled ({error}): check the disk and data.root.") from error
    return str(folder)


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _fill(folder: Path, work: Path, url: str, sha256: str | None) -> None:
    work.mkdir(exist_ok=True)
    archive, unpacked = work / PurePosixPath(url).name, work / "unpacked"
    if not archive.is_file():
        log.info("Fetching %s into %s.", url, folder)
        download(url, archive)
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        if sha256 is not None:
            check_sha256(archive, sha256)
        unpack(archive, unpacked)
    except DataError:
        archive.unlink()  # so that the next try fetches it anew
        raise
    inner = list(unpacked.iterdir())
    if folder.is_dir():
        folder.rmdir()
    (inner[0] if len(inner) == 1 and inner[0].is_dir() else unpacked).rename(folder)
    shutil.rmtree(work)


# -- download ----------------------------------------------------------------------------------------------------------


def download(url: str, file: Path) -> None:
    """Download to ``file``, which appears once it is complete; ``<file>.part`` grows until then, over all tries.

    Raises:
        DataError: The server cannot be reached, refuses, keeps breaking off, or changes its mind about the size.
    """
    part = file.with_name(f"{file.name}.part")
    total: int | None = None
    with Progress(
        TextColumn(file.name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    ) as bar:
        task = bar.add_task("", total=None)
        for _ in range(ATTEMPTS):
            claimed, is_whole = _receive(url, part, lambda size, total: bar.update(task, completed=size, total=total))
            if total not in (None, claimed):
                part.unlink(missing_ok=True)
                raise DataError(f"{url} has {total} bytes at one time and {claimed} at another: fetch it elsewhere.")
            if is_whole:
                part.rename(file)
                return
            total = claimed
            time.sleep(PAUSE)
    raise DataError(
        f"{url} broke off {ATTEMPTS} times, at last after {_size(part)} of {total or 'unknown'} bytes: run the same "
        "command again, it goes on from there."
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _receive(url: str, part: Path, report: Callable[[int, int | None], None]) -> tuple[int | None, bool]:
    """Append to ``part`` what it lacks, or begin anew where the server cannot go on.

    Returns:
        Size of the whole as the server has it (``None``: it does not say), and whether ``part`` is complete.
    """
    size = _size(part)
    headers = {"User-Agent": "da-lightning"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not size:  # range not satisfiable
            raise DataError(
                f"{url} answers {error.code} {error.reason}: fetch the data set elsewhere and unpack it to data.root."
            ) from error
        if error.headers.get("Content-Range") == f"bytes */{size}":
            return size, True
        part.unlink()
        return _receive(url, part, report)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}): check the connection and run the same "
            "command again, or fetch the data set elsewhere and unpack it to data.root."
        ) from error
    with response:
        if response.status != 206:
            size = 0
        elif size and not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            part.unlink()
            return _receive(url, part, report)
        total = None if response.length is None else size + response.length
        with part.open("ab" if size else "wb") as out:
            while True:
                report(size, total)
                try:
                    chunk = response.read(_CHUNK)
                except (OSError, HTTPException):
                    return total, False
                if not chunk:
                    return total, total in (None, size)
                size += out.write(chunk)


def check_sha256(file: Path, expected: str) -> None:
    """Hold the SHA-256 of ``file`` against what it should be.

    Raises:
        DataError: They differ.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise DataError(
            f"{file.name} has the SHA-256 {digest.hexdigest()}, not {expected}, so it is damaged or another file and "
            "was removed: try again, or set data.files.sha256=null if you trust it."
        )


# -- archives ----------------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar (of any compression) or zip archive: files and folders only, with none of their permissions.

    Raises:
        DataError: The archive is damaged or of another kind, leads out of ``folder``, or holds links or devices.
    """
    folder.mkdir()
    columns = TextColumn(f"unpacking {archive.name}"), BarColumn(), TimeRemainingColumn()
    try:
        with Progress(*columns) as bar, bar.open(archive, "rb") as stream:
            for member in _members(archive, cast(IO[bytes], stream)):
                _write(member, folder, archive)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DataError(
            f"{archive.name} cannot be unpacked ({reason}), so it is damaged or no tar or zip archive and was removed: "
            "try again."
        ) from error


def _members(archive: Path, stream: IO[bytes]) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(stream) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in archives that were made elsewhere than on Unix
                is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                yield _Member(info.filename, info.is_dir(), is_plain, partial(zipped.open, info))
    else:
        with tarfile.open(fileobj=stream) as tarred:
            for entry in tarred:
                is_plain = entry.isreg() or entry.isdir()
                yield _Member(entry.name, entry.isdir(), is_plain, partial(tarred.extractfile, entry))
            while cast(IO[bytes], tarred.fileobj).read(_CHUNK):  # the compressed stream's checksum is at its end
                pass


def _write(member: _Member, folder: Path, archive: Path) -> None:
    # Stricter than tarfile's data filter, which lets links inside the folder pass; zipfile has none.
    path = PureWindowsPath(member.name)  # knows both separators, and drives
    if path.anchor or ".." in path.parts or not member.is_plain:
        raise DataError(
            f"{archive.name} holds {member.name!r}, which "
            f"{'leads out of its folder' if member.is_plain else 'is a link or a device'}, so it was refused and "
            "removed: fetch the data set elsewhere."
        )
    place = folder.joinpath(*path.parts)
    if member.is_folder:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with cast(IO[bytes], member.open()) as source, place.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
