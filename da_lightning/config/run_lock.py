"""One process at a time in the folder of a run or a sweep."""

import atexit
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from da_lightning.errors import UserError
from da_lightning.files import DiskError, read_mapping, write_text
from da_lightning.processes import is_first_process

log = logging.getLogger(__name__)

LOCK_FILES = _LOCK, _HOLDER = ".running", ".running.json"
"""What lies in a folder while a process has it."""

_held: dict[Path, FileLock] = {}


class HeldError(UserError):
    """Another process trains in this folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other run has ``folder``; nothing is done where this process has it already.

    Raises:
        HeldError: Another process has it.
        DiskError: The folder cannot be written to.
    """
    is_new = take(folder)
    try:
        yield
    finally:
        if is_new:
            give_back(folder)


def take(folder: Path) -> bool:
    """Hold ``folder`` until :func:`give_back` or the end of this process; ``False`` if this process holds it already.

    The system frees the lock of a process that has died.

    Raises:
        HeldError, DiskError: See :func:`held`.
    """
    folder = folder.absolute()
    if folder in _held or not is_first_process():  # the processes of a run share its folder
        return False
    lock = FileLock(folder / _LOCK)
    began = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _acquired(lock):
            holder = _holder(folder)
            # A process may have yet to say who it is, and the lock of a killed one may last a while.
            if time.monotonic() - began > (5 if holder is None else 60 if _is_gone(holder) else 0):
                who = "another process"
                if holder:
                    who = f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"
                raise HeldError(
                    f"{folder} is in use by {who}: wait for it, or end it, or begin a new run with resume=never."
                )
            time.sleep(0.2)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise DiskError(folder / _LOCK, error) from error
        log.warning("The disk of %s has no locks: see that no two processes train in it at once.", folder)
        return False
    _held[folder] = lock
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
    with suppress(DiskError):  # the lock holds without, and the run itself reports a full disk
        write_text(folder / _HOLDER, json.dumps(about))
    return True


def give_back(folder: Path) -> None:
    """Let others have ``folder``, and leave no file of the lock in it."""
    lock = _held.pop(folder.absolute(), None)
    if lock is None:
        return
    for name in (_HOLDER, _LOCK):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    lock.release()


@atexit.register
def _give_back_all() -> None:
    for folder in list(_held):
        give_back(folder)


def is_held(folder: Path) -> bool:
    """Whether a process, this one or another, has ``folder``."""
    holder = _holder(folder) if (folder / _LOCK).is_file() else None
    if holder is None or _is_gone(holder):
        return False
    lock = FileLock(folder / _LOCK)
    try:
        is_free = folder.absolute() not in _held and _acquired(lock)
    except (OSError, NotImplementedError):
        return True
    if is_free:
        lock.release()
    return not is_free


def _acquired(lock: FileLock) -> bool:
    with suppress(Timeout):
        lock.acquire(blocking=False)
    return lock.is_locked


def _holder(folder: Path) -> dict[str, Any] | None:
    content = read_mapping(folder / _HOLDER)
    return content if isinstance(content.get("pid"), int) else None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process is known to have ended; of another machine's nothing is known."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False
