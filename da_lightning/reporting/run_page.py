"""What the page of one run says."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from da_lightning.reporting.charts import Line, line_chart
from da_lightning.reporting.pictures import Embedded, by_kind, drawn_pictures
from da_lightning.reporting.runs import Run
from da_lightning.reporting.scores import Score, parse, written
from da_lightning.reporting.tables import Cell, Table, change_cell, duration, memory, tinted_rows, titled_table

_POINTS_OF_A_PAGE = 150_000
_DOMAIN = re.compile(r"(?<![a-z])_?(source|target)(?![a-z])")


def run_page(
    run: Run, embedded: Mapping[Path, Embedded], baseline: Run | None = None, oracle: Run | None = None
) -> dict[str, Any]:
    """What the template shows of a run, and of the stages before it.

    Args:
        run: The run.
        embedded: Its pictures and those of its stages, by their files.
        baseline, oracle: Other runs that its scores stand beside.
    """
    columns = _columns(run, baseline, oracle)
    return {
        "run": run,
        "headline": _headline(run, columns),
        "warnings": _warnings(run, embedded, baseline, oracle),
        "facts": _facts(run),
        "results": _results(run, columns),
        "bars": _bars(run, columns),
        "rounds": _rounds(run),
        "curves": curves(run),
        "kinds": by_kind(run, embedded),
        "config": run.text(".hydra/config.yaml") or run.text("hparams.yaml"),
        "stages": [run_page(stage, embedded) for stage in run.stages],
    }


def pictures_of(run: Run) -> list[Path]:
    """The files that :func:`run_page` wants embedded."""
    return [*drawn_pictures(run), *(file for stage in run.stages for file in pictures_of(stage))]


class _Column(NamedTuple):
    """Scores under a title; it is empty where there are none."""

    title: str
    scores: Mapping[Score, float | None]


def _columns(run: Run, baseline: Run | None, oracle: Run | None) -> dict[str, _Column]:
    """The scores of the run, of what came before it, of the oracle, and of the last weights if not its own."""

    def column(title: str, role: str) -> _Column:
        scores = {score._replace(role=""): value for score, value in run.scores.items() if score.role == role}
        return _Column(title if scores else "", scores)

    columns = {
        "before": column("source only", "source_only"),
        "own": column("", "")._replace(title=run.method),
        "oracle": column("oracle", "oracle"),
        "last": column("last iteration", "last"),
    }
    if baseline:
        columns["before"] = _Column(f"{baseline.method} ({baseline.folder.name})", baseline.scores)
    if oracle:
        columns["oracle"] = _Column("oracle", oracle.scores)
    return columns


def _headline(run: Run, columns: dict[str, _Column]) -> dict[str, Any] | None:
    """The objective, large: what adaptation began from, what came of it, what it could have been."""
    score = run.objective
    if score is None:
        return None
    return {
        "score": score,
        "steps": [
            (columns[role].title, score.shown(value), role)
            for role in ("before", "own", "oracle")
            if (value := columns[role].scores.get(score)) is not None
        ],
        "change": change_cell(score, columns["own"].scores[score], columns["before"].scores.get(score)),
    }


def _warnings(run: Run, embedded: Mapping[Path, Embedded], baseline: Run | None, oracle: Run | None) -> list[str]:
    warnings = []
    if not run.is_finished:
        warnings.append("This run has not finished: it left no metrics.json, so only what it logged is shown.")
    warnings += warnings_of_selection(other for other in (run, baseline, oracle) if other)
    unread = [file.name for file in drawn_pictures(run) if file not in embedded]
    if unread:
        warnings.append(f"Pictures that cannot be read were left out: {', '.join(unread)}.")
    return warnings


def warnings_of_selection(runs: Iterable[Run]) -> list[str]:
    """One sentence, at most: whose weights were selected with target labels."""
    chosen = [run for run in runs if run.was_chosen_with_target_labels]
    if not chosen:
        return []
    names = ", ".join(run.folder.name for run in chosen)
    selections = "”, “".join(dict.fromkeys(run.selection for run in chosen))
    return [
        f"Target labels chose the tested weights of {names} (“{selections}”). Without labels that choice cannot be "
        "made: read these figures as an upper bound, not as results of unsupervised adaptation."
    ]


def _facts(run: Run) -> dict[str, str]:
    summary = run.summary
    labels = run.pseudo_labels
    facts = {
        "Recipe": run.choices.get("experiment"),
        "Seed": run.seed,
        "Weights tested": run.selection if run.is_finished else None,
        "Iterations": f"{summary['iterations']:,}" if "iterations" in summary else None,
        "Devices": summary.get("devices"),
        "Time": duration(summary["seconds"]) if "seconds" in summary else None,
        "Peak memory": memory(summary["peak_memory_mb"]) if "peak_memory_mb" in summary else None,
        "Pseudo labels kept": f"{sum(labels)} maps, {len(labels)} rounds" if labels else None,
        "Versions": ", ".join(f"{name} {number}" for name, number in summary.get("versions", {}).items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _results(run: Run, columns: dict[str, _Column]) -> Table | None:
    before, own, oracle, last = columns.values()

    def value_cell(score: Score, column: _Column, style: str = "") -> tuple[str, Cell]:
        value = column.scores.get(score)
        return column.title, Cell(score.shown(value), value, style=style)

    rows = []
    for score in own.scores:
        if score.item:
            continue
        value, was, best = (column.scores.get(score) for column in (own, before, oracle))
        row = [("score", Cell(score.measured, style="main" if score == run.objective else ""))]
        if before.title:
            row.append(value_cell(score, before))
        row.append(value_cell(score, own, "best"))
        if before.title:
            row.append(("change", change_cell(score, value, was)))
        row += [value_cell(score, column) for column in (last, oracle) if column.title]
        if oracle.title and before.title:
            row.append(("gap closed", Cell(gap_closed(was, value, best) if score == run.objective else "")))
        rows.append(row)
    return titled_table("Test scores", rows) if rows else None


def gap_closed(before: float | None, value: float | None, oracle: float | None) -> str:
    """The share of the way from source-only to oracle that was made."""
    if before is None or value is None or oracle is None or before == oracle:
        return ""
    return f"{100 * (value - before) / (oracle - before):.0f} %".replace("-", "−")


def _bars(run: Run, columns: dict[str, _Column]) -> list[dict[str, Any]]:
    """The score of each class on each test set."""
    own, before, oracle = (columns[role].scores for role in ("own", "before", "oracle"))
    panels: dict[Score, list[Score]] = {}
    for score in own:
        if score.item:
            panels.setdefault(score._replace(item=""), []).append(score)
    bars = []
    for panel, scores in panels.items():
        known = [v for s in scores for v in (own[s], before.get(s), oracle.get(s)) if v is not None]
        longest = 1.0 if panel.is_share else max(known, default=0.0) or 1.0
        rows = [
            {
                "name": score.item,
                "colour": run.colours.get(score.item),
                "value": own[score],
                "text": score.shown(own[score]),
                "before": before.get(score),
                "oracle": oracle.get(score),
                "change": change_cell(score, own[score], before.get(score)),
            }
            for score in scores
        ]
        bars.append(
            {
                "title": f"{panel.title} by class" + (" (%)" if panel.is_share else ""),
                "bars": rows,
                "longest": longest,
                "before": columns["before"].title if any(row["before"] is not None for row in rows) else "",
                "has_oracle": any(row["oracle"] is not None for row in rows),
            }
        )
    return bars


def _rounds(run: Run) -> list[Table]:
    """Shares and thresholds of pseudo labels, a column a round."""
    rounds = [row for row in run.rounds if any(name.startswith("pseudo_labels/") for name in row)]
    if not rounds:
        return []
    columns = ["", *(f"round {row['round']:g}" for row in rounds)]
    order = {name: number for number, name in enumerate(run.colours)}

    def written(name: str, factor: int, digits: int) -> list[tuple[str, float | None]]:
        values = [row.get(name) for row in rounds]
        return [("–" if value is None else f"{factor * value:.{digits}f}", value) for value in values]

    tables = []
    for key, caption, factor, digits in (
        ("share", "Target pixels that carry a pseudo label (%)", 100, 1),
        ("tau", "Confidence a pixel must reach", 1, 3),
    ):
        prefix = f"pseudo_labels/{key}/"
        found = dict.fromkeys(name.removeprefix(prefix) for row in rounds for name in row if name.startswith(prefix))
        names = sorted(found, key=lambda name: order.get(name, len(order)))
        rows = tinted_rows([(name, written(f"{prefix}{name}", factor, digits)) for name in names])
        if key == "share":
            overall = {"asked for": "pseudo_labels/portion", "all pixels": "pseudo_labels/share"}
            rows = [
                [Cell(title, style="main"), *(Cell(*cell) for cell in written(name, factor, digits))]
                for title, name in overall.items()
            ] + rows
        if rows:
            tables.append(Table(caption, columns, rows))
    return tables


def curves(run: Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """Charts of logged metrics by their prefixes; source and target of a metric share a chart."""
    lines: dict[str, dict[str, list[Line]]] = {}
    logged = {
        name: points
        for name, points in run.curves.items()
        if not name.startswith("pseudo_labels/") and len({step for step, _ in points}) > 1
    }
    for name, points in logged.items():
        domains = " ".join(_DOMAIN.findall(name))
        parts = _DOMAIN.sub("", name).split("/")
        title = written(parts[-1].strip("_")) if parts[-1] else "source, target"
        prefix = " · ".join(part.strip("_") for part in parts[:-1] if part)
        if parse("/".join(part for part in name.split("/") if part not in ("train", "val", "test"))).is_share:
            title, points = f"{title} (%)", [(step, 100 * value) for step, value in points]
        lines.setdefault(prefix or "metrics", {}).setdefault(title, []).append(Line(domains or title, points))
    limit = max(20, min(500, _POINTS_OF_A_PAGE // max(1, len(logged))))
    return [
        (
            prefix,
            [line_chart(title, its, "iteration", " ".join(map(_course, its)), limit) for title, its in charts.items()],
        )
        for prefix, charts in sorted(lines.items())
    ]


def _course(line: Line) -> str:
    """What the line does, in words."""
    (first, start), (last, end) = line.points[0], line.points[-1]
    values = [value for _, value in line.points]
    return (
        f"{line.name}: from {start:.4g} at iteration {first:g} to {end:.4g} at {last:g}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}."
    )
