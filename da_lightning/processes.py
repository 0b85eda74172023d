"""Processes: which of a run's this one is, who is below another, signals to them, and their end."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def is_first_process() -> bool:
    """Whether no launcher, of torch or of a cluster, says that this is another rank than the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with suppress(OSError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """All processes below another, as Linux lists them; none on other systems."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # pid (name, which may hold blanks and brackets) state parent ...
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found, wanted = [], [pid]
    while wanted:
        below = parents.get(wanted.pop(), [])
        found += below
        wanted += below
    return found


def kill(pids: Sequence[int]) -> None:
    """Kill processes and all below them, but those that clean up after others, which end with them."""
    below = (child for pid in pids for child in descendants(pid))
    for pid in dict.fromkeys([*pids, *below]):
        with suppress(OSError):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
