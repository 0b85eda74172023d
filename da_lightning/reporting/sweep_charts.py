"""The chart and the table of a sweep over one key or two."""

from collections.abc import Sequence

from da_lightning.reporting.charts import Chart, Line, line_chart
from da_lightning.reporting.comparison import Sweep
from da_lightning.reporting.runs import Run
from da_lightning.reporting.scores import Score, Spread
from da_lightning.reporting.tables import Cell, Table, score_cell, tinted


def titled(score: Score | None) -> str:
    return f"{score.title} (%)" if score and score.is_share else score.title if score else ""


def overall(runs: Sequence[Run], objective: Score | None) -> list[Score]:
    """The objective first, and once more of what adaptation began from."""
    scores = dict.fromkeys(score for run in runs for score in run.scores if not score.item)
    kept = [score for score in scores if not score.role or score.under("") == objective]
    return sorted(kept, key=lambda score: (score != objective, score.role, score.place != "target"))


def sweep_chart(sweep: Sweep, objective: Score | None) -> Chart | None:
    """The objective's measure on each test set along one numeric key."""
    if len(sweep.keys) != 1 or objective is None:
        return None
    (key,) = sweep.keys
    numbers = [as_number(value) for value in sweep.values(key)]
    if None in numbers:
        return None
    scores = [s for s in overall(sweep.runs, objective) if s.metric == objective.metric]
    factor = 100 if objective.is_share else 1
    lines = []
    for score in scores:
        found: dict[float, list[float]] = {}
        for x, run in zip(numbers, sweep.runs, strict=True):
            if x is not None and (value := run.scores.get(score)) is not None:
                found.setdefault(x, []).append(factor * value)
        spreads = [(x, spread) for x in sorted(found) if (spread := Spread.of(found[x]))]
        if not spreads:
            continue
        dots = [(x, y) for x, ys in found.items() if len(ys) > 1 for y in ys]
        name = f"{score.place}, {score.role.replace('_', ' ')}" if score.role else score.place or score.metric
        points = [(x, spread.mean) for x, spread in spreads]
        lines.append(Line(name, points, [spread.deviation for _, spread in spreads], dots, bool(score.role)))
    if not lines:
        return None
    words = " ".join(f"{line.name}: {', '.join(f'{y:.4g} at {x:g}' for x, y in line.points)}." for line in lines)
    title = titled(objective._replace(place=""))
    return line_chart(title, lines, sweep.short(key), f"{title} by {key}. {words}", is_sweep=True)


def heat_map(sweep: Sweep, objective: Score | None) -> Table | None:
    """The objective over two keys."""
    if len(sweep.keys) != 2 or objective is None:
        return None
    down, across = sweep.keys
    row_values, column_values = (sorted(set(sweep.values(key)), key=_order) for key in sweep.keys)
    spreads = [
        [
            Spread.of(
                run.scores.get(objective)
                for run in sweep.runs
                if (sweep.value(run, down), sweep.value(run, across)) == (row, column)
            )
            for column in column_values
        ]
        for row in row_values
    ]
    if 2 * sum(spread is not None for line in spreads for spread in line) < len(row_values) * len(column_values):
        return None  # the keys go together, like an experiment and its method
    tints = tinted([[spread.mean if spread else None for spread in line] for line in spreads])
    table = [
        [
            Cell(row),
            *(
                Cell(score_cell(objective, s).text, s.mean, tint=t) if s else Cell("–", style="faint")
                for s, t in zip(line, tint, strict=True)
            ),
        ]
        for row, line, tint in zip(row_values, spreads, tints, strict=True)
    ]
    corner = f"{sweep.short(down)} ↓   {sweep.short(across)} →"
    return Table(f"{titled(objective)} by {down} and {across}", [corner, *column_values], table)


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _order(value: str) -> tuple[bool, float, str]:
    number = as_number(value)
    return number is None, number or 0.0, value
