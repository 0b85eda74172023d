"""What the page of several runs says, or of a sweep."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from da_lightning.reporting.comparison import Comparison, Group, differing
from da_lightning.reporting.pictures import Embedded, Figure, by_kind, drawn_pictures
from da_lightning.reporting.run_page import gap_closed, warnings_of_selection
from da_lightning.reporting.scores import Score, Spread
from da_lightning.reporting.sweep_charts import as_number, heat_map, overall, sweep_chart
from da_lightning.reporting.sweep_folder import never_began, without_results
from da_lightning.reporting.tables import Cell, Table, change_cell, cost_cells, score_cell, tinted_rows, titled_table

_PICTURED_GROUPS = 24


def comparison_page(compared: Comparison, embedded: Mapping[Path, Embedded], beside: Path) -> dict[str, Any]:
    """What the template shows of several runs.

    Args:
        compared: What is compared.
        embedded: Pictures of :func:`pictures_of`, by their files.
        beside: The folder of the page, for links to the pages of runs.
    """
    runs, sweep, objective = compared.runs, compared.sweep, compared.objective
    keys = ", ".join(sweep.short(key) for key in sweep.keys) if sweep else ""
    return {
        "data": ", ".join(dict.fromkeys(run.data for run in runs if run.is_finished)),
        "title": f"Sweep of {keys}" if keys else "Sweep over seeds" if sweep else "Comparison",
        "subtitle": _subtitle(compared),
        "warnings": _warnings(compared),
        "note": _note(compared),
        "chart": sweep_chart(sweep, objective) if sweep and objective else None,
        "heat_map": heat_map(sweep, objective) if sweep and objective else None,
        "objective": objective,
        "strips": _strips(compared, objective) if objective else None,
        "groups": _groups_table(compared),
        "classes": _classes_table(compared, objective) if objective else None,
        "options": _options_table(compared.groups),
        "runs": _runs_table(compared, beside),
        "pictures": _pictures(compared.groups, embedded),
        "colours": next((run.colours for run in runs if run.colours), {}),
    }


def pictures_of(groups: Sequence[Group]) -> list[Path]:
    """The test pictures of the first run of each group."""
    first = [group.runs[0] for group in groups[:_PICTURED_GROUPS]]
    return [file for run in first for file in drawn_pictures(run) if file.name.startswith(("test_", "ranking"))]


def _subtitle(compared: Comparison) -> str:
    runs, groups = compared.runs, compared.groups
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    count = f"{len(runs)} runs" if len(runs) == len(groups) else f"{len(runs)} runs of {len(groups)} configurations"
    return f"{count}: {methods}"


def _warnings(compared: Comparison) -> list[str]:
    runs, sweep, objective = compared.runs, compared.sweep, compared.objective
    warnings = []
    if sweep and sweep.was_searched and objective and objective.place == "target":
        warnings.append(
            f"A search chose the options by {objective.title}, with target labels: the best of these figures is an "
            "upper bound, not a result of unsupervised adaptation."
        )
    warnings += warnings_of_selection(runs)
    data = list(dict.fromkeys(run.data for run in runs if run.is_finished))
    if len(data) > 1:
        warnings.append(f"The runs are on different data ({', '.join(data)}): their scores do not compare.")
    unfinished = [run.folder.name for run in runs if not run.is_finished]
    if sweep:
        unfinished += [job.name for job in without_results(sweep.folder) if job.name not in unfinished]
    if unfinished:
        what = "Jobs" if sweep else "Runs"
        warnings.append(f"{what} that left no results, failed or still running: {', '.join(unfinished)}.")
    if sweep and (never := never_began(sweep.folder)):
        warnings.append(f"Jobs that never began: {', '.join(never)}.")
    return warnings


def _note(compared: Comparison) -> str:
    groups, baseline, objective = compared.groups, compared.baseline, compared.objective
    sentences = []
    if any(len(group.runs) > 1 for group in groups):
        sentences.append("Runs whose configuration differs in the seed only are one row: mean ± standard deviation.")
    if baseline and objective:
        found = [group.difference(baseline, objective) for group in groups]
        paired = (
            ", between runs of the same seed where there are two and more" if any(f and f[1] for f in found) else ""
        )
        sentences.append(f"Smaller, in colour: the difference to {baseline.label}{paired}.")
    return " ".join(sentences)


def _groups_table(compared: Comparison) -> Table:
    baseline, oracle, sweep, objective = compared.baseline, compared.oracle, compared.sweep, compared.objective
    scores = overall(compared.runs, objective)
    bests = {score: None if score.role else _best(compared, score) for score in scores}
    rows = []
    for group in compared.groups:
        role = compared.role(group)
        row = [(sweep.short(key), _key_cell(sweep.value(group.runs[0], key))) for key in sweep.keys] if sweep else []
        row = row or [("configuration", Cell(""))]
        title, first = row[0]
        row[0] = title, replace(first, aside=role) if first.text else Cell(group.label, aside=role)
        row.append(("runs", Cell(str(len(group.runs)), len(group.runs), aside=_seeds(group))))
        for score in scores:
            change, style = _change(group, baseline, score)
            style += " best" if group is bests[score] else ""
            row.append((score.measured, score_cell(score, group.spread(score), change, style)))
        if baseline and oracle and objective:
            means = [spread.mean if (spread := g.spread(objective)) else None for g in (baseline, group, oracle)]
            row.append(("gap closed", Cell("" if role else gap_closed(*means))))
        seconds = Spread.of(run.summary.get("seconds") for run in group.runs)
        peak = max(run.summary.get("peak_memory_mb") or 0 for run in group.runs)
        row += cost_cells(seconds.mean if seconds else None, peak or None)
        rows.append(row)
    return titled_table("Results", rows, is_sortable=True)


def _key_cell(value: str) -> Cell:
    number = as_number(value)
    return Cell(value, number, style="" if number is not None else "text")


def _seeds(group: Group) -> str:
    seeds = [str(run.seed) for run in group.runs if run.seed is not None]
    return f"seeds {', '.join(seeds)}" if len(seeds) > 1 else ""


def _best(compared: Comparison, score: Score) -> Group | None:
    candidates = [group for group in compared.groups if group is not compared.oracle]
    scored = [(spread.mean * score.sign, group) for group in candidates if (spread := group.spread(score))]
    return max(scored, key=lambda item: item[0])[1] if len(scored) > 1 else None


def _change(group: Group, baseline: Group | None, score: Score) -> tuple[str, str]:
    """The difference to the baseline as it stands beside a score, and its style."""
    if baseline is None or group is baseline or (found := group.difference(baseline, score)) is None:
        return "", ""
    mean, deviation = found[0]
    cell = change_cell(score, mean, 0.0)
    return cell.text + (f" ± {score.shown(deviation)}" if deviation is not None else ""), cell.style


def _strips(compared: Comparison, objective: Score) -> dict[str, Any] | None:
    """Dots of all runs on one scale; places are in per cent of it."""
    values = [run.scores.get(objective) for run in compared.runs]
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    margin = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return {
        "range": (objective.shown(low), objective.shown(high)),
        "groups": [
            {
                "label": group.label,
                "dots": [place(v) for run in group.runs if (v := run.scores.get(objective)) is not None],
                "mean": place(spread.mean),
                "text": objective.spread(spread),
                "style": compared.role(group),
            }
            for group in compared.groups
            if (spread := group.spread(objective))
        ],
    }


def _classes_table(compared: Comparison, objective: Score) -> Table | None:
    groups = compared.groups
    logged = dict.fromkeys(score for run in compared.runs for score in run.scores)
    scores = [s for s in logged if s.item and not s.role and s.place == objective.place]
    if not scores:
        return None
    means = [(s, [spread.mean if (spread := g.spread(s)) else None for g in groups]) for s in scores]
    rows = tinted_rows([(score.item, [(score.shown(mean), mean) for mean in row]) for score, row in means])
    panel = scores[0]._replace(item="")
    return Table(f"{panel.measured} by class", ["class", *(group.label for group in groups)], rows, is_sortable=True)


def _options_table(groups: Sequence[Group]) -> Table | None:
    """In what the groups differ, apart from what a method has that another has not."""
    keys = differing([group.options for group in groups])
    if not keys:
        return None
    rows = [
        [Cell(key), *(Cell("" if value is None else str(value), style="text") for value in values)]
        for key, values in sorted(keys.items())
    ]
    return Table("Options that differ", ["option", *(group.label for group in groups)], rows)


def _runs_table(compared: Comparison, beside: Path) -> Table:
    scores = overall(compared.runs, compared.objective)
    rows = []
    for group in compared.groups:
        for run in group.runs:
            page = run.folder / "report.html"
            link = os.path.relpath(page, beside) if page.is_file() else ""
            seed = run.seed if isinstance(run.seed, int) else None
            row = [
                ("run", Cell(run.folder.name, link=link)),
                ("configuration", Cell(group.label, style="text")),
                ("seed", Cell("" if run.seed is None else str(run.seed), seed)),
            ]
            row += [(s.measured, Cell(s.shown(run.scores.get(s)), run.scores.get(s))) for s in scores]
            row += cost_cells(run.summary.get("seconds"), run.summary.get("peak_memory_mb"))
            row.append(("weights tested", Cell(run.selection if run.is_finished else "not finished", style="text")))
            rows.append(row)
    return titled_table("Every run", rows, is_sortable=True)


def _pictures(groups: Sequence[Group], embedded: Mapping[Path, Embedded]) -> dict[str, list[Figure]]:
    """Pictures of the same images, one of each group, by what they show."""
    found: dict[str, list[Figure]] = {}
    for group in groups[:_PICTURED_GROUPS]:
        for kind in by_kind(group.runs[0], embedded):
            for figure in kind["figures"]:
                if figure.picture:
                    name = Path(figure.file).stem.partition("_")[2].replace("_", " ")
                    title = f"{kind['title']}, {name}" if name else kind["title"]
                    found.setdefault(title, []).append(replace(figure, title=group.label))
    return found
