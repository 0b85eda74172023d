"""The name of a run's folder: the time at which it began, and a number where another began in the same second."""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.resume import unfinished_stamp
from da_lightning.config.run_lock import give_back, take
from da_lightning.files import is_folder_name
from da_lightning.private.hydra import command_line
from da_lightning.screen import one_sentence

_STAMP = "DA_RUN_STAMP"
_OLD_TREE = "multirun/${hydra.runtime.choices.method}/${hydra.runtime.choices.data}"
_is_new = False


def set_stamp(arguments: Sequence[str]) -> list[str]:
    """Set ``DA_RUN_STAMP``, unless it is given: of the run that ``arguments`` continue, or of this second.

    Lightning starts a process for each device by running the command again; the stamp keeps all in one folder.

    Returns:
        Further arguments: the place of a sweep that an earlier version began.
    """
    global _is_new
    _is_new = False
    if _STAMP in os.environ:
        stamp = os.environ[_STAMP]
        if not is_folder_name(stamp):
            sys.exit(
                f"error: DA_RUN_STAMP={ascii(stamp)} cannot name a run's folder: give letters, digits, and _ - . : + "
                "between them, at most 100 characters, or unset it."
            )
        return _old_sweep(arguments, stamp)
    with one_sentence():
        found = unfinished_stamp(arguments)
    is_one_of_several = {"RANK", "LOCAL_RANK"} & os.environ.keys() or int(os.environ.get("SLURM_NTASKS", 1)) > 1
    _is_new = found is None and not is_one_of_several
    os.environ[_STAMP] = found or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return _old_sweep(arguments, found) if found else []


def _old_sweep(arguments: Sequence[str], stamp: str) -> list[str]:
    """Where the jobs of a sweep lie that has a folder for each method and data, as an option of Hydra's."""
    given = command_line(arguments)
    is_placed = any(word.startswith("hydra.sweep.dir=") for word in given.overrides)
    is_old = not Path("multirun", stamp).is_dir() and any(Path().glob(f"multirun/*/*/{escape(stamp)}/multirun.yaml"))
    return [f"hydra.sweep.dir={_OLD_TREE}/{stamp}"] if given.multirun and is_old and not is_placed else []


class ClaimFolder(Callback):
    """Hydra's callback that makes the folder of a new run before anybody else can, and holds it while it runs.

    A sweep's own callback does both for a sweep.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        for group in ("method", "data"):
            choice = str(OmegaConf.select(config, f"hydra.runtime.choices.{group}"))
            if not all(map(is_folder_name, choice.split("/"))):
                sys.exit(
                    f"error: {group}={ascii(choice)} is part of the run's folder: name its file with "
                    "letters, digits, and _ - . : + between them."
                )
        self._folder = hold_folder(lambda: Path(config.hydra.run.dir))

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        give_back(self._folder)


def hold_folder(folder: Callable[[], Path]) -> Path:
    """Claim ``folder()`` and hold it until this process ends, or end the command with who has it."""
    claimed = claim_folder(folder)
    with one_sentence():  # Hydra would take it for a warning
        take(claimed)
    return claimed


def claim_folder(folder: Callable[[], Path]) -> Path:
    """Make ``folder()``, which has the stamp's name; the stamp changes until nobody else has made it before.

    Hydra and the other processes of a run have the stamp from the environment; in this one the folder is passed on.
    """
    stamp, number = os.environ.get(_STAMP, ""), 1
    while _is_new and (made := folder()).name == os.environ[_STAMP]:  # else the user has named the folder
        try:
            made.mkdir(parents=True)
            return made
        except FileExistsError:
            number += 1
            os.environ[_STAMP] = f"{stamp}_{number}"
    return folder()
