"""The table of a sweep, ``sweep.csv`` and on the screen: its jobs, how they differ, their scores and failures."""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from da_lightning.errors import UserError
from da_lightning.files import write_text
from da_lightning.names import shown
from da_lightning.reporting.runs import as_mapping, natural, read_run
from da_lightning.reporting.sweep_folder import differing_options, job_folders, never_began, run_options

STOPPED = "a signal has stopped it: the same command with resume=auto takes it up."
"""The ``error.txt`` of such a job."""


@dataclass
class Job:
    """A job as its folder shows it; ``options`` are choices and overrides, ``score`` is that of ``objective``."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    objective: str | None = None
    score: float | None = None
    seconds: float | None = None
    error: str | None = None


def write_table(folder: Path) -> tuple[list[Job], list[str]]:
    """Write ``sweep.csv``: ``job, <options that differ>, objective, score, seconds, error``, one row a job.

    Args:
        folder: The sweep's.

    Returns:
        Its jobs, and the options in which they differ.

    Raises:
        DiskError: The file cannot be written.
    """
    jobs = read_jobs(folder)
    keys = differing_options(job.options for job in jobs)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["job", *keys, "objective", "score", "seconds", "error"])
    for job in jobs:
        values = [job.options.get(key) for key in keys]
        writer.writerow([job.name, *values, job.objective, job.score, job.seconds, job.error])
    write_text(folder / "sweep.csv", text.getvalue())
    return jobs, keys


def read_jobs(folder: Path) -> list[Job]:
    """The jobs of a sweep in their order, with those that were planned and never began."""
    jobs = [_read_job(job, folder) for job in job_folders(folder)]
    planned = never_began(folder).items()
    never = [Job(number, as_mapping(words), error="error: it never began.") for number, words in planned]
    return sorted([*jobs, *never], key=lambda job: natural(job.name))


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


def print_jobs(jobs: list[Job], keys: list[str], title: str) -> None:
    """The same as a table on the screen."""
    from rich.console import Console
    from rich.table import Table

    objectives = {job.objective for job in jobs if job.objective}
    (objective,) = objectives if len(objectives) == 1 else ("score",)  # or each names its own
    table = Table()
    for header in ("job", *keys, objective, "seconds"):
        table.add_column(shown(header), justify="right", overflow="fold")
    for job in jobs:
        score = {None: "", STOPPED: "stopped"}.get(job.error, "failed")
        if not job.error and job.score is not None:
            score = f"{job.score:.4g}"
        if job.objective and len(objectives) > 1:
            score = shown(f"{job.objective} {score}")
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        values = [shown(_rounded(job.options.get(key, ""))) for key in keys]
        table.add_row(shown(job.name), *values, score, seconds)
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(shown(title), soft_wrap=True)
    console.print(table)
    for job in jobs:
        if job.error:
            console.print(shown(f"job {job.name}: {job.error}"), soft_wrap=True)


def _rounded(value: str) -> str:
    return f"{float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value) else value
