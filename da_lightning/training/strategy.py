"""Which Lightning strategy a method runs under."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.strategies import Strategy

from da_lightning.errors import UserError
from da_lightning.files import DiskError
from da_lightning.training.devices import parsed_devices


def resolve_strategy(strategy: str, accelerator: str, devices: int | str | list[int], num_nodes: int) -> str:
    """``auto`` becomes ``ddp`` on more than one device; anything else is left as it is."""
    if strategy != "auto" or count_processes(accelerator, devices, num_nodes) == 1:
        return strategy
    return "ddp"


@contextmanager
def failing_together(strategy: Strategy) -> Iterator[None]:
    """All processes wait here for one another; a file that one cannot write inside ends all, which would else hang.

    Raises:
        UserError: Of this process, or that another has failed.
    """
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    except OSError as error:
        failure = DiskError(Path(error.filename or "A file"), error)
    if not strategy.reduce_boolean_decision(failure is None, all=True):
        raise failure or UserError("Another process of this run cannot write its files: see what it says.")


def count_processes(accelerator: str, devices: int | str | list[int], num_nodes: int) -> int:
    """Processes that Lightning makes of these options of the trainer.

    Raises:
        UserError: ``devices`` names none.
    """
    wanted = parsed_devices(devices)
    if wanted == "auto":
        count = 1 if accelerator == "cpu" else max(1, torch.cuda.device_count())
    else:
        count = len(wanted) if isinstance(wanted, list) else wanted
    return count * num_nodes
