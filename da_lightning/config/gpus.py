"""GPUs for the jobs of a sweep that run side by side."""

import itertools
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_taken: FileLock | None = None  # held until this process ends: CUDA keeps to the GPU it began with


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` lists or, where it is not set, the numbers of all GPUs."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        import torch

        return [str(i) for i in range(torch.cuda.device_count())]
    return [gpu.strip() for gpu in listed.split(",") if gpu.strip() not in ("", "-1")]


def take_gpu() -> None:
    """Give this process one GPU for all its jobs: the first that the fewest others of this user have taken so."""
    global _taken
    gpus = visible_gpus()
    if not gpus:
        return
    folder = Path(tempfile.gettempdir()) / f"da_lightning_gpus_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for sharers, gpu in itertools.product(range(64), gpus):
        if _taken:
            break
        lock = FileLock(folder / f"{gpu.replace('/', '_')}.{sharers}")
        with suppress(Timeout):
            lock.acquire(blocking=False)
            _taken, os.environ["CUDA_VISIBLE_DEVICES"] = lock, gpu
    log.info("On GPU %s.", os.environ["CUDA_VISIBLE_DEVICES"])
