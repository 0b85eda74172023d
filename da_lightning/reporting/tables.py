"""Tables as the template wants them, and how numbers are written in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from da_lightning.reporting.scores import Score, Spread


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: What stands there.
        value: What it is sorted by; ``None`` sorts by the text.
        aside: Smaller, after the text.
        style: ``text`` (to the left), ``good``, ``bad``, ``best`` or ``faint``.
        tint: How strongly the cell is coloured, 0..1.
        link: Where the text leads.
    """

    text: str
    value: float | None = None
    aside: str = ""
    style: str = ""
    tint: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row is its name."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    is_sortable: bool = False


@dataclass(frozen=True)
class Strip:
    """Single values as dots on a line, with their mean; places are in per cent of the line."""

    label: str
    dots: list[float]
    mean: float
    text: str
    aside: str
    style: str


def score_cell(score: Score, spread: Spread | None, aside: str = "", style: str = "") -> Cell:
    if spread is None:
        return Cell("–", style="faint")
    deviation = f" ± {score.shown(spread.deviation)}" if spread.deviation is not None else ""
    return Cell(score.shown(spread.mean) + deviation, spread.mean, aside, style)


def change_cell(score: Score, change: float | None) -> Cell:
    if change is None:
        return Cell("")
    text = score.change(change)
    return Cell(text, change, style="" if text[0] not in "+−" else "good" if change * score.sign > 0 else "bad")


def tinted(rows: Iterable[Sequence[float | None]]) -> list[list[float | None]]:
    """Each value's place between the smallest and the largest of all."""
    rows = [list(row) for row in rows]
    known = [value for row in rows for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    width = (high - low) or 1.0
    return [[None if value is None else round((value - low) / width, 2) for value in row] for row in rows]


def duration(seconds: float | None) -> str:
    """``45 s``, ``4 min 49 s``, ``2 h 05 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def memory(megabytes: float | None) -> str:
    return "–" if megabytes is None else f"{megabytes:,.0f} MB"
