"""What the page of one run says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from da_lightning.reporting.charts import Chart, Line, line_chart
from da_lightning.reporting.pictures import Embedded, Kind, by_kind, drawn_pictures
from da_lightning.reporting.runs import Point, Run
from da_lightning.reporting.scores import Score, parse, written
from da_lightning.reporting.tables import Cell, Table, change_cell, duration, memory, tinted

_POINTS_OF_A_PAGE = 150_000
_MANY = 12
_DOMAIN = re.compile(r"(?<![a-z])_?(source|target)(?![a-z])")


@dataclass(frozen=True)
class Headline:
    """The objective, large: what adaptation began from, what came of it, what it could have been."""

    title: str
    unit: str
    steps: list[tuple[str, str, str]]
    change: Cell


@dataclass(frozen=True)
class Bar:
    name: str
    colour: tuple[int, int, int] | None
    width: float
    text: str
    before: float | None
    oracle: float | None
    change: Cell


@dataclass(frozen=True)
class Bars:
    """A score of each class on one test set; widths and marks are in per cent."""

    title: str
    bars: list[Bar]
    before: str
    has_oracle: bool


@dataclass(frozen=True)
class Curves:
    """Charts under one prefix."""

    title: str
    charts: list[Chart]

    @property
    def are_many(self) -> bool:
        return len(self.charts) > _MANY


@dataclass(frozen=True)
class RunPage:
    """Everything the template needs of a run, and of the stages before it."""

    run: Run
    headline: Headline | None
    warnings: list[str]
    facts: list[tuple[str, str]]
    results: Table | None
    bars: list[Bars]
    rounds: list[Table]
    curves: list[Curves]
    kinds: list[Kind]
    config: str
    stages: "list[RunPage]"


@dataclass(frozen=True)
class References:
    """Other runs that a run is measured against."""

    baseline: Run | None = None
    oracle: Run | None = None


def run_page(run: Run, embedded: Mapping[Path, Embedded], references: References | None = None) -> RunPage:
    """Put together the page of a run.

    Args:
        run: The run.
        embedded: Its pictures and those of its stages, by their files.
        references: What its scores stand beside.
    """
    columns = _columns(run, references or References())
    return RunPage(
        run,
        _headline(run, columns),
        _warnings(run, embedded, references or References()),
        _facts(run),
        _results(run, columns),
        _bars(run, columns),
        _rounds(run),
        curves(run),
        by_kind(run, dict(embedded)),
        run.text(".hydra/config.yaml") or run.text("hparams.yaml"),
        [run_page(stage, embedded) for stage in run.stages],
    )


def pictures_of(run: Run) -> list[Path]:
    """The files that :func:`run_page` wants embedded."""
    return [*drawn_pictures(run), *(file for stage in run.stages for file in pictures_of(stage))]


Column = tuple[str, Mapping[Score, float | None]]


@dataclass(frozen=True)
class _Columns:
    """The scores of the run, of what it is compared with, of the oracle, and of the last weights if not its own."""

    own: Column
    before: Column | None
    oracle: Column | None
    last: Column | None


def _columns(run: Run, references: References) -> _Columns:
    own = {score: value for score, value in run.scores.items() if not score.role}
    before, oracle, last = (
        {score.under(""): value for score, value in run.scores.items() if score.role == role}
        for role in ("source_only", "oracle", "last")
    )
    baseline = references.baseline
    return _Columns(
        (run.method, own),
        (f"{baseline.method} ({baseline.folder.name})", baseline.scores)
        if baseline
        else ("source only", before)
        if before
        else None,
        ("oracle", references.oracle.scores) if references.oracle else ("oracle", oracle) if oracle else None,
        ("last iteration", last) if last else None,
    )


def _headline(run: Run, columns: _Columns) -> Headline | None:
    score = run.objective
    if score is None:
        return None
    steps = []
    for number, column in enumerate((columns.before, columns.own, columns.oracle)):
        if column and column[1].get(score) is not None:
            steps.append((column[0], score.shown(column[1][score]), ("before", "own", "oracle")[number]))
    value, was = columns.own[1][score], columns.before[1].get(score) if columns.before else None
    change = change_cell(score, None if value is None or was is None else value - was)
    return Headline(score.title, score.unit, steps, change)


def _warnings(run: Run, embedded: Mapping[Path, Embedded], references: References) -> list[str]:
    warnings = []
    if not run.is_finished:
        warnings.append("This run has not finished: it left no metrics.json, so only what it logged is shown.")
    for other in (run, references.baseline, references.oracle):
        if other and other.was_chosen_with_target_labels:
            whose = "" if other is run else f" of {other.folder.name}"
            warnings.append(
                f"Target labels chose the tested weights{whose} (“{other.selection}”). Without labels that choice "
                "cannot be made: read these figures as an upper bound, not as a result of unsupervised adaptation."
            )
    unread = [file.name for file in drawn_pictures(run) if file not in embedded]
    if unread:
        warnings.append(f"Pictures that cannot be read were left out: {', '.join(unread)}.")
    return warnings


def _facts(run: Run) -> list[tuple[str, str]]:
    summary = run.summary
    facts = [
        ("Recipe", run.choices.get("experiment")),
        ("Seed", run.seed),
        ("Weights tested", run.selection if run.is_finished else None),
        ("Iterations", f"{summary['iterations']:,}" if "iterations" in summary else None),
        ("Devices", summary.get("devices")),
        ("Time", duration(summary["seconds"]) if "seconds" in summary else None),
        ("Peak memory", memory(summary["peak_memory_mb"]) if "peak_memory_mb" in summary else None),
        ("Pseudo labels kept", f"{sum(labels)} maps, {len(labels)} rounds" if (labels := run.pseudo_labels) else None),
        ("Versions", ", ".join(f"{name} {number}" for name, number in summary.get("versions", {}).items())),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _results(run: Run, columns: _Columns) -> Table | None:
    name, own = columns.own
    scores = [score for score in own if not score.item]
    if not scores:
        return None
    before, oracle, last = columns.before, columns.oracle, columns.last
    titles = ["score", *([before[0]] if before else []), name, *(["change"] if before else [])]
    titles += [last[0]] if last else []
    titles += ["oracle", "gap closed"] if oracle and before else ["oracle"] if oracle else []
    rows = []
    for score in scores:
        value = own[score]
        was = before[1].get(score) if before else None
        best = oracle[1].get(score) if oracle else None
        unit = f" ({score.unit})" if score.unit else ""
        row = [Cell(score.title + unit, style="main" if score == run.objective else "")]
        if before:
            row.append(Cell(score.shown(was), was))
        row.append(Cell(score.shown(value), value, style="best"))
        if before:
            row.append(change_cell(score, None if was is None or value is None else value - was))
        if last:
            row.append(Cell(score.shown(last[1].get(score)), last[1].get(score)))
        if oracle:
            row.append(Cell(score.shown(best), best))
        if oracle and before:
            row.append(Cell(gap_closed(was, value, best) if score == run.objective else ""))
        rows.append(row)
    return Table("Test scores", titles, rows)


def gap_closed(before: float | None, value: float | None, oracle: float | None) -> str:
    """The share of the way from source-only to oracle that was made."""
    if before is None or value is None or oracle is None or before == oracle:
        return ""
    return f"{100 * (value - before) / (oracle - before):.0f} %".replace("-", "−")


def _bars(run: Run, columns: _Columns) -> list[Bars]:
    own, before, oracle = (column[1] if column else {} for column in (columns.own, columns.before, columns.oracle))
    panels: dict[Score, list[Score]] = {}
    for score in own:
        if score.item:
            panels.setdefault(score._replace(item=""), []).append(score)
    bars = []
    for panel, scores in panels.items():
        known = [v for s in scores for v in (own[s], before.get(s), oracle.get(s)) if v is not None]
        longest = 1.0 if panel.is_share else max(known, default=0.0) or 1.0

        def width(value: float | None, longest: float = longest) -> float | None:
            return None if value is None else round(100 * value / longest, 2)

        rows = []
        for score in scores:
            value, was = own[score], before.get(score)
            change = None if value is None or was is None else value - was
            rows.append(
                Bar(
                    score.item,
                    run.colours.get(score.item),
                    width(value) or 0.0,
                    score.shown(value),
                    width(was),
                    width(oracle.get(score)),
                    change_cell(score, change),
                )
            )
        title = f"{panel.title} by class" + (" (%)" if panel.is_share else "")
        compared = columns.before[0] if columns.before and any(bar.before is not None for bar in rows) else ""
        bars.append(Bars(title, rows, compared, any(bar.oracle is not None for bar in rows)))
    return bars


def _rounds(run: Run) -> list[Table]:
    """Shares and thresholds of pseudo labels, a column a round."""
    rounds = [row for row in run.rounds if any(name.startswith("pseudo_labels/") for name in row)]
    if not rounds:
        return []
    columns = ["", *(f"round {row['round']:g}" for row in rounds)]
    order = {name: number for number, name in enumerate(run.colours)}
    tables = []
    for key, caption, factor, digits in (
        ("share", "Target pixels that carry a pseudo label (%)", 100, 1),
        ("tau", "Confidence a pixel must reach", 1, 3),
    ):
        prefix = f"pseudo_labels/{key}/"
        found = dict.fromkeys(name for row in rounds for name in row if name.startswith(prefix))
        names = sorted(found, key=lambda name: order.get(name.removeprefix(prefix), len(order)))
        values = [[row.get(name) for row in rounds] for name in names]
        rows = [
            [
                Cell(name.removeprefix(prefix)),
                *(_tinted_cell(v, t, factor, digits) for v, t in zip(vs, ts, strict=True)),
            ]
            for name, vs, ts in zip(names, values, tinted(values), strict=True)
        ]
        if key == "share":
            overall = (("asked for", "pseudo_labels/portion"), ("all pixels", "pseudo_labels/share"))
            rows = [
                [Cell(title, style="main"), *(_tinted_cell(row.get(name), None, factor, digits) for row in rounds)]
                for title, name in overall
            ] + rows
        if rows:
            tables.append(Table(caption, columns, rows))
    return tables


def _tinted_cell(value: float | None, tint: float | None, factor: float, digits: int) -> Cell:
    return Cell("–" if value is None else f"{factor * value:.{digits}f}", value, tint=tint)


def curves(run: Run) -> list[Curves]:
    """Logged metrics under their prefixes; source and target of a metric share a chart."""
    charts: dict[str, dict[str, list[Line]]] = {}
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
        charts.setdefault(prefix or "metrics", {}).setdefault(title, []).append(Line(domains or title, points))
    limit = max(20, min(500, _POINTS_OF_A_PAGE // max(1, len(logged))))
    return [
        Curves(
            prefix, [line_chart(title, lines, "iteration", _spoken(lines), limit) for title, lines in titles.items()]
        )
        for prefix, titles in sorted(charts.items())
    ]


def _spoken(lines: Sequence[Line]) -> str:
    return " ".join(_course(line.name, line.points) for line in lines)


def _course(name: str, points: Sequence[Point]) -> str:
    values = [value for _, value in points]
    return (
        f"{name}: from {values[0]:.4g} at iteration {points[0][0]:g} to {values[-1]:.4g} at {points[-1][0]:g}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}."
    )
