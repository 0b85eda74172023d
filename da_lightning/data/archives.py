"""Archives from strangers: files and folders alone, inside their folder, no more of them than there is reason for."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NamedTuple, cast

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from da_lightning.data.transfer import CHUNK, check_room
from da_lightning.errors import DataError
from da_lightning.names import shown

MOST_MEMBERS = 500_000
RATIO = 100
"""How many times its own size an archive may become; pictures become about once."""
SMALL = 100_000_000
"""Bytes that any archive may become."""

_LARGEST_HEAD = 2**22  # of a member of a tar archive, or of what it is told in
_LARGEST_LIST = 2**28  # of a zip archive's list of its members
_LONGEST_NAME, _LONGEST_PATH, _DEEPEST = 255, 2000, 40
_ELSEWHERE = "fetch the data set elsewhere"


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_plain: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a tar (of any compression) or zip archive: files and folders only, with none of their permissions.

    Args:
        archive: The file.
        folder: Where to; it must not be there.
        limit: Bytes that may come out; :data:`RATIO` and :data:`MOST_MEMBERS` bound them as well.

    Raises:
        NoRoom: The disk has not enough room.
        DataError: The archive is damaged or of another kind, leads out of ``folder``, holds links, devices, a file
            twice, too many, or too much.
    """
    folder.mkdir()
    columns = TextColumn(f"unpacking {escape(shown(archive.name))}"), BarColumn(), TimeRemainingColumn()
    budget = _Budget(archive, limit)
    try:
        with Progress(*columns) as bar, bar.open(archive, "rb") as stream:
            for member in _members(archive, cast(IO[bytes], stream), budget):
                _write(member, folder, archive, budget)
    except DataError:
        raise
    except Exception as error:  # tarfile, zipfile and those that decompress raise of all kinds
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the archive's
            raise
        reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        raise DataError(
            f"{archive.name} cannot be unpacked ({reason}), so it is damaged or no tar or zip archive and was removed: "
            "try again."
        ) from error


class _Budget:
    """Counts what comes out of an archive."""

    def __init__(self, archive: Path, limit: int) -> None:
        self.archive, self.members, self.bytes = archive, 0, 0
        by_ratio = max(SMALL, RATIO * archive.stat().st_size)
        self.limit = min(limit, by_ratio)
        self.why = f"{limit / 1e9:,.3g} GB" if limit <= by_ratio else f"{RATIO} times its own size"
        self.remedy = "raise data.files.max_gb if you trust it" if limit <= by_ratio else _ELSEWHERE

    def check(self, size: int) -> None:
        """Refuse an archive that will become, or has become, ``size`` bytes."""
        if size > self.limit:
            raise _refused(self.archive, f"would become more than {self.why} when unpacked", self.remedy)

    def take(self, size: int) -> None:
        """Count bytes that have come out, whatever the archive has said."""
        self.bytes += size
        self.check(self.bytes)

    def count(self, members: int = 1) -> None:
        """Count members."""
        self.members += members
        if self.members > MOST_MEMBERS:
            raise _refused(self.archive, f"holds more than {MOST_MEMBERS:,} files and folders")


def _members(archive: Path, stream: IO[bytes], budget: _Budget) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        yield from _zipped(archive, stream, budget)
        return
    with _decompressed(stream) as plain, tarfile.open(fileobj=cast(IO[bytes], _Heads(plain)), mode="r:") as tarred:
        for entry in tarred:
            budget.count()
            is_plain = (entry.isreg() and not entry.issparse()) or entry.isdir()
            yield _Member(entry.name, entry.isdir(), is_plain, entry.size, partial(tarred.extractfile, entry))
            cast(Any, tarred).members = []  # it would remember all
        while rest := plain.read(CHUNK):  # the compressed stream's checksum is at its end
            budget.take(len(rest))


def _zipped(archive: Path, stream: IO[bytes], budget: _Budget) -> Iterator[_Member]:
    end: Any = zipfile._EndRecData(stream)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > _LARGEST_LIST:  # type: ignore[attr-defined]
        budget.count(MOST_MEMBERS + 1)
    with zipfile.ZipFile(stream) as zipped:
        infos = zipped.infolist()
        budget.count(len(infos))
        if sum(info.compress_size for info in infos) > archive.stat().st_size:
            raise _refused(archive, "holds files that lie over each other")
        budget.check(total := sum(info.file_size for info in infos))
        check_room(archive, total, f"Unpacking {archive.name}")
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in archives that were made elsewhere than on Unix
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            yield _Member(info.filename, info.is_dir(), is_plain, info.file_size, partial(zipped.open, info))


def _decompressed(stream: IO[bytes]) -> IO[bytes]:
    """What ``stream`` holds by its first bytes; tarfile's own would read a head of any size into the memory."""
    beginning = stream.read(6)
    stream.seek(0)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if beginning.startswith(magic):
            return cast(IO[bytes], opened(stream, "rb"))
    return stream


class _Heads:
    """A stream whose reader asks for no more at once than a member's head may have."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._stream = stream.seek, stream.tell, stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEAD:
            raise tarfile.ReadError("a member's head is too large")
        return self._stream.read(size)


def _write(member: _Member, folder: Path, archive: Path, budget: _Budget) -> None:
    # Stricter than tarfile's data filter, which lets links inside the folder pass; zipfile has none.
    path = PureWindowsPath(member.name)  # knows both separators, and drives
    reason = ""
    if not member.is_plain:
        reason = "is a link, a device or a file with holes"
    elif path.anchor or ".." in path.parts:
        reason = "leads out of its folder"
    elif len(path.parts) > _DEEPEST or len(member.name) > _LONGEST_PATH:
        reason = "lies too deep"
    elif any(len(part.encode("utf-8", "surrogateescape")) > _LONGEST_NAME for part in path.parts):
        reason = "has too long a name"
    place = folder.joinpath(*path.parts)
    try:
        if not reason and member.is_folder:
            place.mkdir(parents=True, exist_ok=True)
            return
        if not reason:
            place.parent.mkdir(parents=True, exist_ok=True)
            budget.check(budget.bytes + member.size)
            check_room(archive, member.size, f"Unpacking {archive.name}")
            with cast(IO[bytes], member.open()) as source, place.open("xb") as target:
                while chunk := source.read(CHUNK):
                    budget.take(len(chunk))
                    target.write(chunk)
            return
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        reason = "is in it twice, as a file and a folder or in other letters"
    name = member.name if len(member.name) < 200 else f"{member.name[:200]}..."
    raise _refused(archive, f"holds {name!r}, which {reason}")


def _refused(archive: Path, why: str, remedy: str = _ELSEWHERE) -> DataError:
    return DataError(f"{archive.name} {why}, so it was refused and removed: {remedy}.")
