"""From folders to the text of the page."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import da_lightning
from da_lightning.errors import UserError
from da_lightning.names import shown
from da_lightning.reporting import comparison_page, run_page
from da_lightning.reporting.comparison import Comparison, Sweep, find_group, grouped
from da_lightning.reporting.pictures import embed
from da_lightning.reporting.runs import is_run, read_run


def single(folder: Path, baseline: str | None = None, oracle: str | None = None) -> str:
    """The page of one run; ``baseline`` and ``oracle`` are folders of other runs."""
    run = read_run(folder)
    others = []
    for name, other in (("baseline", baseline), ("oracle", oracle)):
        if other and not is_run(Path(other)):
            raise UserError(f"{name}={other} is no run: beside a single run, give another run's folder.")
        others.append(read_run(Path(other)) if other else None)
    embedded = embed(run_page.pictures_of(run))
    page = run_page.run_page(run, embedded, *others)
    return _rendered("run.html.jinja", page=page, title=f"{run.method} on {run.data}")


def compared(
    folders: Sequence[Path],
    beside: Path,
    baseline: str | None = None,
    oracle: str | None = None,
    sweep_folder: Path | None = None,
) -> str:
    """The page of several runs; ``baseline`` and ``oracle`` are folders, which need not be among them, or labels."""
    known = {folder.resolve() for folder in folders}
    others = [Path(other) for other in (baseline, oracle) if other and is_run(Path(other))]
    more = [other for other in dict.fromkeys(others) if other.resolve() not in known]
    runs = [read_run(folder) for folder in (*folders, *more)]
    groups = grouped(runs)
    sweep = Sweep(sweep_folder, runs[: len(folders)]) if sweep_folder else None
    if sweep and sweep.keys:
        groups = [replace(group, label=sweep.label(group.runs[0]) or group.label) for group in groups]
    best = find_group(groups, oracle, "oracle") if oracle else None
    adapted = [group for group in groups if group is not best]
    first = find_group(adapted, baseline, "baseline") if baseline else None
    embedded = embed(comparison_page.pictures_of(groups))
    page = comparison_page.comparison_page(Comparison(groups, first, best, sweep), embedded, beside.resolve())
    return _rendered("comparison.html.jinja", page=page, title=page["title"])


def _rendered(template: str, **context: object) -> str:
    return shown(_environment().get_template(template).render(context), lines=True)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("da_lightning.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.globals["version"] = da_lightning.__version__
    return environment


def _breakable(text: str) -> Markup:
    """Names may be broken after what parts their words."""
    return Markup(re.sub(r"([_/]|\.(?=[a-z]))(?=\w)", r"\1<wbr>", str(escape(text))))
