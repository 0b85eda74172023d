"""The folder of a sweep: its jobs, and those that were planned and never began."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path

from da_lightning.errors import UserError
from da_lightning.files import read_mapping, write_text
from da_lightning.reporting.runs import Run, find_runs, is_run, natural, read_yaml

PLAN = "jobs.json"
CHOICES = ("method", "data", "experiment")
"""Groups that say what a job is. An experiment may choose the others, so that overrides do not show them."""


def write_plan(sweep: Path, jobs: Sequence[Sequence[str]]) -> None:
    """Write down the overrides of each job before the first begins.

    Raises:
        DiskError: The folder cannot be written to.
    """
    write_text(sweep / PLAN, json.dumps({str(number): list(words) for number, words in enumerate(jobs)}, indent=0))


def trees(sweep: Path) -> list[Path]:
    """``sweep`` and, of a sweep kept as ``multirun/<method>/<data>/<stamp>``, its parts for other methods and data."""
    places = sweep.absolute().parents
    if len(places) < 3 or places[2].name != "multirun":
        return [sweep]
    others = places[2].glob(f"*/*/{escape(sweep.name)}")
    return [sweep, *(o for o in others if o != sweep.absolute() and not (o / "multirun.yaml").is_file())]


def job_folders(sweep: Path) -> list[Path]:
    """Folders of the jobs that have begun, in their order."""
    jobs = (job for tree in trees(sweep) for job in recorded_folders(tree))
    return sorted(jobs, key=lambda job: natural(job.name))


def recorded_folders(folder: Path) -> Iterator[Path]:
    """Folders below in which Hydra has recorded a run; nothing is looked for inside these."""
    for below in folder.iterdir():
        if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
            if (below / ".hydra").is_dir():
                yield below
            else:
                yield from recorded_folders(below)


def find_jobs(sweep: Path) -> list[Path]:
    """The jobs that have something to show, in their order.

    Raises:
        UserError: None has.
    """
    jobs = [job for job in job_folders(sweep) if is_run(job)]
    return jobs or find_runs(sweep)


def job_number(job: Path) -> str:
    """Its number in the sweep, which need not be its folder's name."""
    try:
        recorded = (read_yaml(job / ".hydra" / "hydra.yaml") or {})["hydra"]["job"]["num"]
    except (UserError, KeyError, TypeError):
        return job.name
    return str(recorded)


def never_began(sweep: Path) -> dict[str, list[str]]:
    """Planned jobs without a folder: overrides by number. A sweep of an earlier version has no plan."""
    begun = {job_number(job) for job in job_folders(sweep)}
    return {number: words for number, words in read_mapping(sweep / PLAN).items() if number not in begun}


def without_results(sweep: Path) -> list[Path]:
    """Jobs that began and left no ``metrics.json``."""
    return [job for job in job_folders(sweep) if not (job / "metrics.json").is_file()]


def run_options(run: Run) -> dict[str, str]:
    """The overrides of a job, and its choices as one would type them."""
    chosen = {key: run.choices[key] for key in CHOICES if key in run.choices}
    return {**run.overrides, **{key: "null" if name is None else str(name) for key, name in chosen.items()}}


def differing_options(options: Iterable[Mapping[str, str]]) -> list[str]:
    """Options that are not the same in all jobs, choices first. Choices of a job that never began may be unknown."""
    jobs = list(options)
    keys = dict.fromkeys(key for job in jobs for key in job if key not in CHOICES)
    choices = [key for key in CHOICES if len({job[key] for job in jobs if key in job}) > 1]
    return [*choices, *(key for key in keys if len({job.get(key) for job in jobs}) > 1)]
