"""What a sweep adds to its jobs: a failure leaves the others standing, each has a GPU, a table comes at the end."""

import csv
import io
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf

from da_lightning.config.paths import CONF_DIR
from da_lightning.config.run_lock import LOCK_FILES, is_first_process
from da_lightning.config.secrets import hidden
from da_lightning.config.stamp import claim_folder, hold_folder
from da_lightning.errors import UserError
from da_lightning.files import dispensable, write_text
from da_lightning.names import shown
from da_lightning.private.hydra import sweep_jobs, wrap
from da_lightning.report import leave_report
from da_lightning.reporting.runs import is_run, natural, read_run
from da_lightning.reporting.sweep_folder import (
    PLAN,
    as_mapping,
    differing_options,
    job_folders,
    never_began,
    run_options,
    write_plan,
)
from da_lightning.stopping import Stopped, as_stopped

log = logging.getLogger(__name__)

EXTRAS = {"joblib": "sweep", "optuna": "sweep", "submitit": "slurm", "ray": "ray"}
"""By plugin: the extra of this package that installs it."""

SIDE_BY_SIDE = ("JoblibLauncher", "RayLauncher")
"""Launchers whose jobs share a machine, and of whose processes Lightning knows nothing."""


@dataclass
class Job:
    """A job as its folder shows it; ``options`` are choices and overrides, ``score`` is that of ``objective``."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    objective: str | None = None
    score: float | None = None
    seconds: float | None = None
    error: str | None = None


class Sweep(Callback):
    """Hydra's callback for the first moment of a sweep, which also sees to its last."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what cannot work; then make the sweep's folder, with the plan of its jobs."""
        global _folder
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
        claim_folder(lambda: Path(config.hydra.sweep.dir))
        _folder = Path(config.hydra.sweep.dir)
        hold_folder(_folder)
        if is_first_process():
            try:
                write_plan(_folder, jobs)
            except UserError as error:
                sys.exit(f"error: {error}")
            _conclude_sweeps_of(get_class(config.hydra.sweeper._target_))


_folder = Path()  # of the sweep of this process
_STOPPED = "a signal has stopped it: the same command with resume=auto takes it up."


def planned_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep, empty ones where earlier scores are to choose them; no job if unknown."""
    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        is_grid = "GridSampler" in str(OmegaConf.select(sweeper, "sampler._target_"))  # as many as the grid has
        return [[]] * (0 if is_grid else sweeper.get("n_trials", 0))
    words = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    words += OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # type: ignore[arg-type]
    try:
        return sweep_jobs(OverridesParser.create(config_loader=_config_loader()).parse_overrides(words))
    except HydraException:  # which Hydra reports
        return []


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


def _conclude_sweeps_of(sweeper: type[Sweeper]) -> None:
    """Let a sweep leave its table however it ends; Hydra's callback for its end is left out after an error."""

    def sweep(original: Callable, self: Sweeper, arguments: list[str]) -> Any:
        stopped: Exception | None = None
        try:
            with as_stopped():
                result = original(self, arguments)
        except Exception as error:
            if not job_folders(_folder):
                forget(_folder)
                raise
            stopped, result = error, None
        except BaseException:  # somebody has ended it
            with suppress(Exception):
                print_jobs(*_write_table(_folder), str(_folder))
            raise
        if sentence := conclude(_folder, stopped):
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
        jobs, keys = _write_table(folder)
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


@contextmanager
def job_of_sweep(cfg: DictConfig) -> Iterator[None]:
    """Around a job: its failure is told, kept in ``error.txt``, and forgotten; beside others it draws no progress bar.

    With joblib it has a GPU of its own. Around a run that belongs to no sweep nothing is done.
    """
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        yield
        return
    note = Path(hydra_cfg.runtime.output_dir) / "error.txt"
    if is_first_process():
        note.unlink(missing_ok=True)  # of an earlier attempt
    launcher = hydra_cfg.launcher._target_.rpartition(".")[2]
    if launcher in SIDE_BY_SIDE and cfg.callbacks.get("progress"):
        cfg.callbacks.progress = OmegaConf.create({"_target_": "da_lightning.training.progress.ProgressLines"})
    if launcher == "JoblibLauncher":
        take_gpu()
    try:
        yield
    except Stopped:
        if is_first_process():
            with dispensable("error.txt"):
                write_text(note, f"{_STOPPED}\n")
        raise
    except Exception as error:
        if isinstance(error, CompactHydraException):  # a sentence for the user
            log.error("%s", error)
        else:
            log.exception("Job %s failed.", note.parent.name)
        if is_first_process():
            with dispensable("error.txt"):
                said = str(error) if isinstance(error, CompactHydraException) else repr(error)
                write_text(note, f"{hidden(said)}\n")


# -- GPUs for jobs side by side ----------------------------------------------------------------------------------------

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


# -- the table ---------------------------------------------------------------------------------------------------------


def _write_table(folder: Path) -> tuple[list[Job], list[str]]:
    jobs = read_jobs(folder)
    keys = differing_options(job.options for job in jobs)
    write_csv(folder / "sweep.csv", jobs, keys)
    return jobs, keys


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweep in their order, with those that were planned and never began."""
    jobs = [_read_job(job, folder) for job in job_folders(folder)]
    never = [
        Job(number, as_mapping(overrides), error="error: it never began.")
        for number, overrides in never_began(folder).items()
    ]
    return sorted([*jobs, *never], key=lambda job: natural(Path(job.name)))


def _read_job(folder: Path, sweep: Path) -> Job:
    name = str(folder.relative_to(sweep)) if folder.is_relative_to(sweep) else folder.name
    try:
        run = read_run(folder)
    except UserError as error:
        return Job(name, error=f"error: {error}")
    job = Job(name, run_options(run))
    if note := run.text("error.txt"):
        job.error = note
    elif run.is_finished:
        job.objective = run.overrides.get("objective") or run.summary.get("objective")
        job.score, job.seconds = run.summary.get("test", {}).get(job.objective), run.summary.get("seconds")
    else:
        job.error = "error: it ended before it was finished."
    return job


def write_csv(file: Path, jobs: list[Job], keys: list[str]) -> None:
    """``job, <options that differ>, objective, score, seconds, error``, one row a job.

    Raises:
        DiskError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["job", *keys, "objective", "score", "seconds", "error"])
    for job in jobs:
        values = [job.options.get(key) for key in keys]
        writer.writerow([job.name, *values, job.objective, job.score, job.seconds, job.error])
    write_text(file, text.getvalue())


def print_jobs(jobs: list[Job], keys: list[str], title: str) -> None:
    """The same as a table on the screen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    objectives = {job.objective for job in jobs if job.objective}
    (objective,) = objectives if len(objectives) == 1 else ("score",)  # or each names its own
    table = Table()
    for header in ("job", *keys, objective, "seconds"):
        table.add_column(Text(shown(header)), justify="right", overflow="fold")
    for job in jobs:
        score = (
            "stopped"
            if job.error == _STOPPED
            else "failed"
            if job.error
            else ""
            if job.score is None
            else f"{job.score:.4g}"
        )
        if job.objective and len(objectives) > 1:
            score = shown(f"{job.objective} {score}")
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        values = [Text(shown(_rounded(job.options.get(key, "")))) for key in keys]
        table.add_row(Text(shown(job.name)), *values, Text(score), seconds)
    console = Console()
    console.print(shown(title), markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for job in jobs:
        if job.error:
            console.print(shown(f"job {job.name}: {job.error}"), markup=False, highlight=False, soft_wrap=True)


def _rounded(value: str) -> str:
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value) else value


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _processes(trainer: DictConfig) -> int:
    """Processes of one job."""
    if str(trainer.devices) == "1":
        return trainer.num_nodes
    from da_lightning.training.strategy import count_processes

    devices = list(trainer.devices) if isinstance(trainer.devices, ListConfig) else trainer.devices
    return count_processes(trainer.accelerator, devices, trainer.num_nodes)
