"""Files that are there whole or not at all: written beside their place, flushed to the disk, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from da_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class DiskError(UserError):
    """A file that cannot be written; the message names it, the reason and the free space of its disk."""

    def __init__(self, path: Path, error: OSError) -> None:
        folder = path.absolute().parent
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        try:
            free = f"{shutil.disk_usage(folder).free / 2**20:,.0f} MB are free on the disk of {folder}"
        except OSError:
            free = f"the disk of {folder} does not answer"
        super().__init__(
            f"{path} cannot be written ({error.strerror or error}; {free}): free some space, or choose a folder that "
            "can be written to."
        )


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a hidden path beside ``path`` to write to; after the ``with`` it is ``path``, after an error it is gone.

    Folders are made as needed. The hidden file has the suffix of ``path``, for writers that go by it.

    Raises:
        DiskError: The disk is full, read-only, or does not take the file for another reason.
    """
    path = Path(path)
    part = path.with_name(f".part-{blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.replace(path)
    except OSError as error:
        raise DiskError(path, error) from error
    finally:
        with suppress(OSError):  # there is none where its folder could not be made
            part.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all.

    Raises:
        DiskError: See :func:`whole_file`.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all; file names that are not UTF-8 keep their bytes.

    Raises:
        DiskError: See :func:`whole_file`.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_png(image: "Tensor", path: str | Path) -> None:
    """Write ``image``, uint8 [1 or 3, H, W], as a PNG file, whole or not at all.

    torchvision's ``write_png`` reports no error on a full disk and leaves a file of 0 bytes.

    Raises:
        DiskError: See :func:`whole_file`.
    """
    from torchvision.io import encode_png

    write_bytes(path, encode_png(image).numpy().tobytes())


def _sync(file: Path) -> None:
    """Wait until the disk has ``file``: some file systems report that they are full only now."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
