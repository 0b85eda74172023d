"""What a sweep adds to its jobs: a failure leaves the others standing, each has a GPU, a table comes at the end."""

import csv
import io
import itertools
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from da_lightning.config.paths import CONF_DIR
from da_lightning.files import dispensable, write_text
from da_lightning.names import shown
from da_lightning.report import leave_report

log = logging.getLogger(__name__)

EXTRAS = {"joblib": "sweep", "optuna": "sweep", "submitit": "slurm", "ray": "ray"}
"""By plugin: the extra of this package that installs it."""

SIDE_BY_SIDE = ("JoblibLauncher", "RayLauncher")
"""Launchers whose jobs share a machine, and of whose processes Lightning knows nothing."""


@dataclass
class Job:
    """A job as its folder tells of it; ``score`` is that of ``objective``."""

    name: str
    overrides: dict[str, str] = field(default_factory=dict)
    objective: str | None = None
    score: float | None = None
    seconds: float | None = None
    error: str | None = None


class Sweep(Callback):
    """Hydra's callback for the first and the last moment of a sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse what cannot work before the first job begins."""
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
        if (launcher in SIDE_BY_SIDE or (is_adaptive and launcher == "BasicLauncher")) and (
            _processes(config.trainer) > 1
        ):
            sys.exit(
                "error: the processes of a job would not find one another in this sweep: set trainer.devices=1, or let "
                "a cluster start them (hydra/launcher=submitit_slurm)."
            )
        if launcher == "JoblibLauncher":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus())  # all, for each job to take one

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write ``sweep.csv``; jobs that failed are named, and the command has failed."""
        if not is_first_process():
            return
        folder = Path(config.hydra.sweep.dir)
        jobs = read_jobs(folder)
        keys = swept_keys(jobs)
        with dispensable("sweep.csv"):  # the jobs' own files say all that it does
            write_csv(folder / "sweep.csv", jobs, keys)
        leave_report(folder)
        print_jobs(jobs, keys, str(folder))
        if failed := [job for job in jobs if job.error]:
            names = ", ".join(job.name for job in failed)
            sys.exit(f"error: {len(failed)} of {len(jobs)} jobs failed ({names}): see error.txt in the folder of each.")


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
    except Exception as error:
        if isinstance(error, CompactHydraException):  # a sentence for the user
            log.error("%s", error)
        else:
            log.exception("Job %s failed.", note.parent.name)
        if is_first_process():
            with dispensable("error.txt"):
                write_text(note, f"{error if isinstance(error, CompactHydraException) else repr(error)}\n")


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


def read_jobs(folder: Path) -> list[Job]:
    """The jobs in a sweep's folder, in their order."""
    jobs = [_read_job(file.parent.parent) for file in folder.glob("*/.hydra/overrides.yaml")]
    return sorted(jobs, key=lambda job: (not job.name.isdigit(), int(job.name) if job.name.isdigit() else 0, job.name))


def _read_job(folder: Path) -> Job:
    words = (str(word).lstrip("+~").partition("=") for word in OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    job = Job(folder.name, {key: value for key, _, value in words})
    if (folder / "error.txt").is_file():
        job.error = (folder / "error.txt").read_text(encoding="utf-8", errors="replace").strip()
    elif (folder / "metrics.json").is_file():
        summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        job.objective = job.overrides.get("objective") or summary["objective"]
        job.score, job.seconds = summary["test"].get(job.objective), summary["seconds"]
    else:
        job.error = "error: it ended before it was finished."
    return job


def swept_keys(jobs: list[Job]) -> list[str]:
    """The options that are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def write_csv(file: Path, jobs: list[Job], keys: list[str]) -> None:
    """``job, <swept options>, objective, score, seconds, error``, one row a job."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["job", *keys, "objective", "score", "seconds", "error"])
    for job in jobs:
        values = [job.overrides.get(key) for key in keys]
        writer.writerow([job.name, *values, job.objective, job.score, job.seconds, job.error])
    write_text(file, content.getvalue())


def print_jobs(jobs: list[Job], keys: list[str], title: str) -> None:
    """The same as a table on the screen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    objectives = {job.objective for job in jobs if job.objective}
    (objective,) = objectives if len(objectives) == 1 else ("score",)
    table = Table()
    for header in ("job", *keys, objective, "seconds"):
        table.add_column(Text(shown(header)), justify="right", overflow="fold")
    for job in jobs:
        score = "failed" if job.error else "" if job.score is None else f"{job.score:.4g}"
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        values = [Text(shown(_rounded(job.overrides.get(key, "")))) for key in keys]
        table.add_row(Text(shown(job.name)), *values, score, seconds)
    console = Console()
    console.print(shown(title), markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for job in jobs:
        if job.error:
            console.print(shown(f"job {job.name}: {job.error}"), markup=False, highlight=False, soft_wrap=True)


def _rounded(value: str) -> str:
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value) else value


def is_first_process() -> bool:
    """Whether no launcher, of torch or of a cluster, says that this is another rank than the first."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


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
