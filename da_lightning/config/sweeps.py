"""Around a sweep: what cannot work is refused before its first job, and a table comes at its end."""

import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.gpus import visible_gpus
from da_lightning.config.jobs import SIDE_BY_SIDE
from da_lightning.config.paths import CONF_DIR
from da_lightning.config.run_lock import LOCK_FILES
from da_lightning.config.stamp import hold_folder
from da_lightning.config.sweep_table import print_jobs, write_table
from da_lightning.errors import UserError
from da_lightning.files import write_text
from da_lightning.private.hydra import parsed, sweep_jobs, wrap
from da_lightning.processes import is_first_process
from da_lightning.report import leave_report
from da_lightning.reporting.runs import is_run
from da_lightning.reporting.sweep_folder import PLAN, job_folders, write_plan
from da_lightning.screen import one_sentence
from da_lightning.stopping import as_stopped

log = logging.getLogger(__name__)

EXTRAS = {"joblib": "sweep", "optuna": "sweep", "submitit": "slurm", "ray": "ray"}
"""By plugin: the extra of this package that installs it."""


class Sweep(Callback):
    """Hydra's callback for the first moment of a sweep, which also sees to its last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what cannot work; then make the sweep's folder, with the plan of its jobs."""
        choices = config.hydra.runtime.choices
        for kind in ("launcher", "sweeper"):
            plugin = re.match(r"(hydra_plugins\.hydra_([a-z]+)_\w+)\.", config.hydra[kind]._target_)
            if plugin and not _is_installed(plugin[1]):
                name, extra = choices[f"hydra/{kind}"], EXTRAS[plugin[2]]
                sys.exit(f"error: hydra/{kind}={name} is not installed: pip install 'da-lightning[{extra}]'.")
        launcher, sweeper = (config.hydra[kind]._target_.rpartition(".")[2] for kind in ("launcher", "sweeper"))
        is_adaptive = sweeper != "BasicSweeper"
        if is_adaptive and config.resume == "auto":
            sys.exit(
                f"error: resume=auto cannot tell the jobs of hydra/sweeper={choices['hydra/sweeper']} apart: let the "
                "study itself go on, with hydra.sweeper.storage=sqlite:///study.db hydra.sweeper.study_name=..."
            )
        jobs = planned_jobs(config)
        processes = _processes_of(config, jobs)
        if (launcher in SIDE_BY_SIDE or (is_adaptive and launcher == "BasicLauncher")) and max(processes) > 1:
            sys.exit(
                "error: the processes of a job would not find one another in this sweep: set trainer.devices=1, or let "
                "a cluster start them (hydra/launcher=submitit_slurm)."
            )
        if len(processes) > 1:
            sys.exit(
                "error: the jobs of this sweep would have different numbers of processes "
                f"({', '.join(map(str, sorted(processes)))}): start one command for each number."
            )
        if launcher == "JoblibLauncher":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus())  # all, for each job to take one
        folder = hold_folder(lambda: Path(config.hydra.sweep.dir))
        if is_first_process():
            with one_sentence():
                write_plan(folder, jobs)
            _conclude_sweeps_of(get_class(config.hydra.sweeper._target_), folder)


def planned_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep, empty ones where earlier scores are to choose them; no job if unknown."""
    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        is_grid = "GridSampler" in str(OmegaConf.select(sweeper, "sampler._target_"))  # as many as the grid has
        return [[]] * (0 if is_grid else sweeper.get("n_trials", 0))
    words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    words += OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # type: ignore[arg-type]
    return sweep_jobs(parsed(words, _config_loader()) or [])


def _config_loader() -> ConfigLoader | None:
    """Hydra's own of this command."""
    hydra = GlobalHydra.instance()
    return hydra.config_loader() if hydra.is_initialized() else None


def _processes_of(config: DictConfig, jobs: Sequence[Sequence[str]]) -> set[int]:
    """Numbers of processes that the jobs would have."""
    loader = _config_loader()
    differing = {tuple(w for w in job if re.match(r"[+~]*(trainer|experiment|debug)\b", w)): job for job in jobs}
    if len(differing) < 2 or loader is None:
        return {_processes(config.trainer)}
    found = set()
    for job in differing.values():
        try:
            found.add(_processes(loader.load_sweep_config(config, list(job)).trainer))
        except (HydraException, ValueError):  # which Hydra reports
            continue
    return found or {1}


def _conclude_sweeps_of(sweeper: type[Sweeper], folder: Path) -> None:
    """Let the sweep in ``folder`` leave its table however it ends; Hydra has no callback for an end by an error."""

    def sweep(original: Callable, self: Sweeper, arguments: list[str]) -> Any:
        stopped: Exception | None = None
        try:
            with as_stopped():
                result = original(self, arguments)
        except Exception as error:
            if not job_folders(folder):
                forget(folder)
                raise
            stopped, result = error, None
        except BaseException:  # somebody has ended it
            with suppress(Exception):
                print_jobs(*write_table(folder), str(folder))
            raise
        if sentence := conclude(folder, stopped):
            sys.exit(sentence)
        return result

    wrap(sweeper, "sweep", sweep)


def conclude(folder: Path, stopped: Exception | None = None) -> str | None:
    """Write ``sweep.csv`` and the report, print the table.

    Args:
        folder: The sweep's.
        stopped: What ended it before its last job.

    Returns:
        Why the command has failed, with the jobs that failed by name; ``None`` if none has.
    """
    try:
        jobs, keys = write_table(folder)
    except UserError as error:
        return f"error: {error}"
    if any(is_run(job) for job in job_folders(folder)):
        leave_report(folder)
    with suppress(OSError, UnicodeError):  # nobody reads, or not these letters: the table is in sweep.csv
        print_jobs(jobs, keys, str(folder))
    reason = ""
    if stopped:
        said = str(stopped).strip() or type(stopped).__name__
        if not isinstance(stopped, HydraException):
            said = f"{type(stopped).__name__}: {said.splitlines()[0]}"
            lines = "".join(traceback.format_exception(stopped))
            with suppress(UserError):
                write_text(folder / "error.txt", lines)
        reason = f" The sweep ended with: {said.removeprefix('error: ')}"
    if failed := [job.name for job in jobs if job.error]:
        return (
            f"error: {len(failed)} of {len(jobs)} jobs failed ({', '.join(failed)}): the lines above say why, and "
            f"error.txt in the folder of each that began.{reason}"
        )
    return f"error:{reason}" if reason else None


def forget(folder: Path) -> None:
    """Remove the folder of a sweep whose first job was refused, if there is nothing else in it."""
    if {entry.name for entry in folder.iterdir()} <= {PLAN, "multirun.yaml", *LOCK_FILES}:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()


def prefer_own_presets() -> None:
    """Let ``conf/hydra/`` have the last word: Hydra merges a preset with a plugin's of the same name, or refuses to."""
    Plugins.instance()  # imports the plugins, which store theirs
    for file in (CONF_DIR / "hydra").glob("*/*.yaml"):
        ConfigStore.instance().repo.get("hydra", {}).get(file.parent.name, {}).pop(file.name, None)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _processes(trainer: DictConfig) -> int:
    """Processes of one job."""
    if str(trainer.devices) == "1":
        return trainer.num_nodes
    from da_lightning.preflight import processes_of

    return processes_of(trainer)
