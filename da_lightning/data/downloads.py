"""Fetching a data set's archive: resumed, checked, and unpacked without leaving its folder."""

import hashlib
import logging
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from filelock import FileLock
from pydantic import PositiveFloat

from da_lightning.data.archives import unpack
from da_lightning.data.transfer import CHUNK, NoRoom, download
from da_lightning.errors import DataError
from da_lightning.reading import kind_of

log = logging.getLogger(__name__)


class Fetched:
    """A data set's folder that is there once this object is; what it holds already is left as it is.

    The archive's top folder, if it has a single one, becomes ``folder``. Until all is there, its parts lie in
    ``<folder>.download``, where the next try goes on. Processes that ask at the same time wait for the first.

    Args:
        folder: Of the data set.
        url: Of a tar or zip archive.
        download: Whether it may be fetched.
        sha256: Of the archive, in hexadecimal; ``None`` does not check it.
        max_gb: Bound of what is fetched, and of what comes out of it.

    Attributes:
        folder: Its absolute path.

    Raises:
        DataError: Nothing is there and ``download`` is off, or something goes wrong on the way.
    """

    def __init__(
        self,
        folder: str | Path,
        url: str,
        download: bool = False,
        sha256: str | None = None,
        max_gb: PositiveFloat = 20.0,
    ) -> None:
        place = Path(folder).expanduser().absolute()
        self.folder = str(place)
        if _is_filled(place):
            return
        if not download:
            raise DataError(
                f"{place} {'is empty' if place.is_dir() else 'does not exist'}: let data.root be the data set's "
                f"folder, or add data.download=true to fetch {url} into it."
            )
        if place.exists() and not place.is_dir():
            raise DataError(f"{place} is {kind_of(place) or 'a file'}, not a folder: let data.root be another place.")
        work, lock = (place.with_name(f"{place.name}.{suffix}") for suffix in ("download", "lock"))
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                if not _is_filled(place):
                    _fill(place, work, url, sha256, round(max_gb * 1e9))
            lock.unlink(missing_ok=True)  # not after an error: those who wait for it must go on one by one
        except OSError as error:
            raise DataError(f"{place} cannot be filled ({error}): check the disk and data.root.") from error


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _fill(folder: Path, work: Path, url: str, sha256: str | None, limit: int) -> None:
    work.mkdir(exist_ok=True)
    archive, unpacked = work / _name(url), work / "unpacked"
    if not archive.is_file():
        log.info("Fetching %s into %s.", url, folder)
        download(url, archive, limit, is_checked=sha256 is not None)
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        if sha256 is not None:
            check_sha256(archive, sha256)
        unpack(archive, unpacked, limit)
    except BaseException as error:
        shutil.rmtree(unpacked, ignore_errors=True)  # the disk may be full of it
        if isinstance(error, DataError) and not isinstance(error, NoRoom):
            archive.unlink()  # so that the next try fetches it again
        raise
    inner = list(unpacked.iterdir())
    if folder.is_dir():
        folder.rmdir()
    (inner[0] if len(inner) == 1 and inner[0].is_dir() else unpacked).rename(folder)
    shutil.rmtree(work)


def _name(url: str) -> str:
    """Of the file, as the address calls it if that can be a name."""
    name = PurePosixPath(urlsplit(url).path).name
    return name if name.strip(".") and len(name.encode("utf-8", "surrogateescape")) < 200 else "archive"


def check_sha256(file: Path, expected: str) -> None:
    """Hold the SHA-256 of ``file`` against what it should be.

    Raises:
        DataError: They differ.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        raise DataError(
            f"{file.name} has the SHA-256 {digest.hexdigest()}, not {expected}, so it is damaged or another file and "
            "was removed: try again, or set data.files.sha256=null if you trust it."
        )
