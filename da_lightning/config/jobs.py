"""One job of Hydra's: where it lies, and what a sweep adds to it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.conf import HydraConf
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.gpus import take_gpu
from da_lightning.config.secrets import hidden
from da_lightning.files import dispensable, write_text
from da_lightning.processes import is_first_process

log = logging.getLogger(__name__)

SIDE_BY_SIDE = ("JoblibLauncher", "RayLauncher")
"""Launchers whose jobs share a machine, and of whose processes Lightning knows nothing."""

_NOTE = "error.txt"


@dataclass(frozen=True)
class Place:
    """Where a run lies, and what it is called.

    Attributes:
        folder: The folder of the run.
        choices: Names of the configuration's parts, by group.
        sweep: The folder of the sweep; ``None`` for a run outside of a sweep.
        number: The job's number in its sweep.
        launcher: The class of Hydra's launcher.
    """

    folder: Path
    choices: Mapping[str, str]
    sweep: Path | None = None
    number: str = ""
    launcher: str = ""

    @property
    def job(self) -> str | None:
        """What a logger calls a job of a sweep."""
        if self.sweep is None:
            return None
        named = [self.choices["method"], self.choices["data"], self.choices.get("experiment")]
        return "/".join(str(name) for name in (*named, self.sweep.name, self.number) if name is not None)


def place_of(hydra: HydraConf) -> Place:
    """What Hydra says of the present run or job."""
    folder, choices = Path(hydra.runtime.output_dir), hydra.runtime.choices
    if hydra.mode != RunMode.MULTIRUN:
        return Place(folder, choices)
    launcher = hydra.launcher._target_.rpartition(".")[2]
    return Place(folder, choices, Path(hydra.sweep.dir), hydra.sweep.subdir, launcher)


def prepare_job(cfg: DictConfig, place: Place) -> None:
    """Before a job of a sweep: beside others it draws no progress bar, and with joblib it has a GPU of its own."""
    if is_first_process():
        (place.folder / _NOTE).unlink(missing_ok=True)  # of an earlier attempt
    if place.launcher in SIDE_BY_SIDE and cfg.callbacks.get("progress"):
        cfg.callbacks.progress = OmegaConf.create({"_target_": "da_lightning.training.progress.ProgressLines"})
    if place.launcher == "JoblibLauncher":
        take_gpu()


def note_failure(place: Place, error: Exception) -> None:
    """Log the error of a failed job and write it to ``error.txt``; the sweep continues."""
    is_sentence = isinstance(error, CompactHydraException)  # for the user
    if is_sentence:
        log.error("%s", error)
    else:
        log.error("Job %s failed.", place.folder.name, exc_info=error)
    note(place, hidden(str(error) if is_sentence else repr(error)))


def note(place: Place, text: str) -> None:
    """Leave ``text`` as the reason why a job has no result."""
    if is_first_process():
        with dispensable(_NOTE):
            write_text(place.folder / _NOTE, f"{text}\n")
