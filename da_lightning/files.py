"""Files that are there whole or not at all: written beside their place, flushed to the disk, then renamed."""

import errno
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from da_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO),
)
"""Of an ``OSError``: the system does not let this user have a file or folder of that name."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of an ``OSError``: there is no space left, or none that this user may take."""


class DiskError(UserError):
    """A file that cannot be written; the message names it, the reason and the free space of its disk."""

    def __init__(self, path: Path, error: OSError | UnicodeEncodeError) -> None:
        if isinstance(error, UnicodeEncodeError):
            encoding = sys.getfilesystemencoding()
            super().__init__(f"{path} cannot be written (its name has no {encoding} form): set PYTHONUTF8=1.")
            return
        folder = next(folder for folder in path.absolute().parents if folder.is_dir())
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
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        raise DiskError(path, error) from error
    finally:
        with suppress(OSError, UnicodeEncodeError):  # there is none where its folder could not be made
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where :func:`whole_file` writes ``path``; what a killed process has left there is written over.

    Ranks have parts of their own: under ``torchrun`` each of them writes what Hydra records of a run.
    """
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    own = path.name if rank == "0" else f"{path.name} of {rank}"
    name = blake2b(own.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return path.with_name(f".part-{name}{path.suffix}")


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


def read_png(path: str | Path) -> "Tensor":
    """What :func:`write_png` has written; torchvision's own reader takes no file name that is not UTF-8."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(
        torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8), ImageReadMode.UNCHANGED
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file of ours; nothing where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def copy_file(source: str | Path, path: str | Path) -> str:
    """Copy ``source`` to ``path``, whole or not at all; fits ``shutil.copytree``.

    Raises:
        DiskError: See :func:`whole_file`.
    """
    with whole_file(path) as part:
        shutil.copyfile(source, part)
    return str(path)


def check_writable(folder: str | Path) -> None:
    """Check before any work that files can be made in ``folder``; it need not be there, and stays as it is.

    Raises:
        DiskError: They cannot.
    """
    folder = Path(folder).absolute()
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".writable-") as file:
            file.write(bytes(2**12))
            file.flush()
    except OSError as error:
        raise DiskError(folder / "", error) from None


def disk_problem(error: OSError | RuntimeError) -> str | None:
    """A sentence about an error of a library that found no space, on the disk or in shared memory, or that may not have
    a file; else ``None``.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
        return (
            f"{error.filename} cannot be opened or made ({error.strerror}): give this user the right, or "
            "choose another path."
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return str(DiskError(Path(error.filename2 or error.filename or tempfile.gettempdir()), error))
    if "Bus error" in text or ("shared memory" in text and ("No space" in text or "Cannot allocate" in text)):
        with suppress(OSError):
            text += f" {shutil.disk_usage('/dev/shm').free / 2**20:,.0f} MB of /dev/shm are free."
        return (
            f"Loader processes found no shared memory ({text}): set data.num_workers=0 or a smaller data.batch_size, "
            "or enlarge /dev/shm (of a container with --shm-size=8g)."
        )
    return f"A file cannot be written ({text}): free some space." if "No space left on device" in text else None


@contextmanager
def dispensable(what: str) -> Iterator[None]:
    """For pictures and pages, which no result depends on: one that cannot be written costs a warning, not the run."""
    try:
        yield
    except (UserError, OSError) as error:
        log.warning("%s was left out: %s", what, error)


def show_picture(image: "Tensor", path: str | Path) -> bool:
    """Write ``image``, RGB [3, H, W] of uint8 or of float in 0..1, as a PNG file that is :func:`dispensable`.

    Returns:
        Whether it is there.
    """
    import torch

    with dispensable("A picture"):
        pixels = (255 * image + 0.5).clamp(0, 255) if image.is_floating_point() else image
        write_png(pixels.to("cpu", torch.uint8), path)
        return True
    return False


def is_folder_name(name: str) -> bool:
    """Whether ``name`` is that of a visible folder on any system: not hidden, not a path, no control characters."""
    return bool(re.fullmatch(r"\w[\w.:+-]{0,99}", name)) and len(os.fsencode(name)) <= 200


# -- files that are there already --------------------------------------------------------------------------------------


def damaged_images(files: Iterable[Path]) -> list[Path]:
    """Those of ``files`` that are missing, cut off or no image.

    Of PNG files all checksums are looked at, of JPEG files the beginning and the end; others are decoded, and so is a
    JPEG file with another end.
    """
    found = list(files)
    with ThreadPoolExecutor(8) as pool:  # the disk may be a network away
        return [file for file, is_whole in zip(found, pool.map(_is_whole_image, found), strict=True) if not is_whole]


RECORD = ".made_by"
"""How the names of hidden files begin that say what has made the images beside them and, below, how many they are."""


def problem_of_images(folder: Path) -> str | None:
    """What has happened to the images below ``folder`` since they were made; ``None``: nothing."""
    if not folder.is_dir():
        return f"{folder} is gone"
    images = [file for file in folder.rglob("[!.]*.png") if file.is_file()]
    counts = [record.read_text(encoding="utf-8", errors="replace").split("\n") for record in folder.glob(f"{RECORD}*")]
    count = sum(int(lines[1]) for lines in counts if len(lines) > 1 and lines[1].isdigit())
    if len(images) < count:
        return f"{folder} lacks {count - len(images)} of its {count} images"
    if damaged := damaged_images(images):
        return f"{len(damaged)} of {len(images)} images in {folder} are damaged, the first is {damaged[0]}"
    return None


def _is_whole_image(file: Path) -> bool:
    from da_lightning.data.images import open_image

    try:
        with open_image(file) as image:
            if image.format == "PNG":
                image.verify()
            elif image.format != "JPEG" or b"\xff\xd9" not in _tail(file):
                image.load()
    except UserError:
        return False
    return True


def _tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 2**12))
        return stream.read()


def _sync(file: Path) -> None:
    """Wait until the disk has ``file``: some file systems report that they are full only now."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
