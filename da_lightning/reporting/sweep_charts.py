"""The chart and the table of a sweep over one key or two."""

from collections.abc import Sequence
from typing import Any

from da_lightning.reporting.charts import Line, line_chart
from da_lightning.reporting.comparison import Sweep
from da_lightning.reporting.runs import Run
from da_lightning.reporting.scores import Score, Spread
from da_lightning.reporting.tables import Table, tinted_rows


def overall(runs: Sequence[Run], objective: Score | None) -> list[Score]:
    """The objective first, and once more of what adaptation began from."""
    scores = dict.fromkeys(score for run in runs for score in run.scores if not score.item)
    kept = [score for score in scores if not score.role or score._replace(role="") == objective]
    return sorted(kept, key=lambda score: (score != objective, score.role, score.place != "target"))


def sweep_chart(sweep: Sweep, objective: Score) -> dict[str, Any] | None:
    """The objective's measure on each test set along one numeric key."""
    if len(sweep.keys) != 1:
        return None
    (key,) = sweep.keys
    numbers = [number for run in sweep.runs if (number := as_number(sweep.value(run, key))) is not None]
    if len(numbers) < len(sweep.runs):
        return None
    scores = [s for s in overall(sweep.runs, objective) if s.metric == objective.metric]
    factor = 100 if objective.is_share else 1
    lines = []
    for score in scores:
        found: dict[float, list[float]] = {}
        for x, run in zip(numbers, sweep.runs, strict=True):
            if (value := run.scores.get(score)) is not None:
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
    title = objective._replace(place="").measured
    return line_chart(title, lines, sweep.short(key), f"{title} by {key}. {words}", is_sweep=True)


def heat_map(sweep: Sweep, objective: Score) -> Table | None:
    """The objective over two keys."""
    if len(sweep.keys) != 2:
        return None
    down, across = sweep.keys
    scores: dict[tuple[str, str], list[float | None]] = {}
    for run in sweep.runs:
        scores.setdefault((sweep.value(run, down), sweep.value(run, across)), []).append(run.scores.get(objective))
    spreads = {place: spread for place, values in scores.items() if (spread := Spread.of(values))}
    row_names, column_names = (sorted(set(names), key=_order) for names in zip(*scores, strict=True))
    if 2 * len(spreads) < len(row_names) * len(column_names):
        return None  # the keys go together, like an experiment and its method
    texts = {place: (objective.spread(spread), spread.mean) for place, spread in spreads.items()}
    rows = [(row, [texts.get((row, column), ("", None)) for column in column_names]) for row in row_names]
    corner = f"{sweep.short(down)} ↓   {sweep.short(across)} →"
    return Table(f"{objective.measured} by {down} and {across}", [corner, *column_names], tinted_rows(rows))


def as_number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _order(value: str) -> tuple[bool, float, str]:
    number = as_number(value)
    return number is None, number or 0.0, value
