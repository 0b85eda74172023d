"""Tables as the template wants them, and how numbers are written in them."""

from collections.abc import Sequence
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
    is_sortable: bool = False


def titled_table(caption: str, rows: Sequence[Sequence[tuple[str, Cell]]], is_sortable: bool = False) -> Table:
    """A table of rows, at least one, whose cells bring the titles of their columns."""
    return Table(caption, [title for title, _ in rows[0]], [[cell for _, cell in row] for row in rows], is_sortable)


def score_cell(score: Score, spread: Spread | None, aside: str = "", style: str = "") -> Cell:
    return Cell(score.spread(spread), spread.mean, aside, style) if spread else Cell("–", style="faint")


def change_cell(score: Score, value: float | None, before: float | None) -> Cell:
    """The difference between two values, in the colour of a gain or a loss."""
    if value is None or before is None:
        return Cell("")
    change = value - before
    text = score.change(change)
    return Cell(text, change, style="" if text[0] not in "+−" else "good" if change * score.sign > 0 else "bad")


def tinted_rows(rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]]) -> list[list[Cell]]:
    """Rows of texts and values after a name, tinted from the smallest value of all to the largest."""
    known = [value for _, cells in rows for _, value in cells if value is not None]
    low = min(known, default=0.0)
    width = (max(known, default=0.0) - low) or 1.0
    return [
        [
            Cell(name),
            *(
                Cell("–", style="faint") if v is None else Cell(text, v, tint=round((v - low) / width, 2))
                for text, v in cells
            ),
        ]
        for name, cells in rows
    ]


def cost_cells(seconds: float | None, megabytes: float | None) -> list[tuple[str, Cell]]:
    """What a run took, under the titles of these columns."""
    return [("time", Cell(duration(seconds), seconds)), ("peak memory", Cell(memory(megabytes), megabytes))]


def duration(seconds: float | None) -> str:
    """``45 s``, ``4 min 49 s``, ``2 h 05 min``."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def memory(megabytes: float | None) -> str:
    return "–" if megabytes is None else f"{megabytes:,.0f} MB"
