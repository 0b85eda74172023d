"""Which Lightning strategy a method runs under."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch.strategies import Strategy

from da_lightning.errors import UserError
from da_lightning.files import DiskError
from da_lightning.training.devices import parsed_devices
from da_lightning.training.module import AdaptationModule


def resolve_strategy(
    strategy: str, module: AdaptationModule, accelerator: str, devices: int | str | list[int], num_nodes: int
) -> str:
    """``auto`` becomes what ``module`` needs on more than one device; anything else is left as it is.

    Raises:
        UserError: A strategy by name under which ``module`` would stop at its second backward pass.
    """
    needed = module.ddp_strategy
    is_alone = count_processes(accelerator, devices, num_nodes) == 1
    if strategy == "auto":
        return "auto" if is_alone else needed
    if not is_alone and isinstance(strategy, str) and needed.endswith("_true") and not strategy.endswith("_true"):
        raise UserError(
            f"trainer.strategy={strategy} stops {type(module).__name__} at the second backward pass of a step: leave "
            f"trainer.strategy=auto, which takes {needed}."
        )
    return strategy


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
