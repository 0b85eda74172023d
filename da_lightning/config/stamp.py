"""The name of a run's folder: the time at which it began, and a number where another began in the same second."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from da_lightning.config.resume import unfinished_stamp

_STAMP = "DA_RUN_STAMP"
_is_new = False


def set_stamp(arguments: Sequence[str]) -> None:
    """Set ``DA_RUN_STAMP``, unless it is given: of the run that ``arguments`` go on with, or of this second.

    Lightning starts a process for each device by running the command again; the stamp keeps all in one folder.
    """
    global _is_new
    _is_new = False
    if _STAMP in os.environ:
        return
    found = unfinished_stamp(arguments)
    is_one_of_several = {"RANK", "LOCAL_RANK"} & os.environ.keys() or int(os.environ.get("SLURM_NTASKS", 1)) > 1
    _is_new = found is None and not is_one_of_several
    os.environ[_STAMP] = found or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


class ClaimFolder(Callback):
    """Hydra's callback that makes the folder of a new run or sweep before anybody else can."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _claim(lambda: Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _claim(lambda: Path(config.hydra.sweep.dir))


def _claim(folder: Callable[[], Path]) -> None:
    stamp, number = os.environ.get(_STAMP, ""), 1
    while _is_new and folder().name == os.environ[_STAMP]:  # else the user has named the folder
        try:
            folder().mkdir(parents=True)
            return
        except FileExistsError:
            number += 1
            os.environ[_STAMP] = f"{stamp}_{number}"
