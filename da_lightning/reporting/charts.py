"""Line charts as SVG: places, ticks and paths; ``charts.html.jinja`` puts them on the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 36

_SMOOTHED_FROM, _BINS = 60, 40
_BIN = 6


@dataclass(frozen=True)
class Line:
    """A series of a chart.

    Args:
        name: What the legend calls it.
        points: In the order of x.
        spreads: Half the length of the whisker at each point.
        dots: Single values behind the points.
        is_reference: Drawn in grey and dashed, as what others are measured against.
    """

    name: str
    points: Sequence[Point]
    spreads: Sequence[float | None] = ()
    dots: Sequence[Point] = ()
    is_reference: bool = False


class Axis:
    """From values to 0..1, with round ticks; where it may, logarithmic over two decades and more of positive values."""

    def __init__(self, values: Sequence[float], ticks: int, may_be_log: bool, is_discrete: bool = False) -> None:
        low, high = min(values), max(values)
        self.is_log = may_be_log and low > 0 and high / low >= 100
        if self.is_log:
            self.low, self.high = math.log10(low), math.log10(high)
            exponents = range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)
            self.ticks = [10.0**exponent for exponent in exponents][:: 1 + len(exponents) // 8]
        else:
            if low == high:
                low, high = low - abs(low or 1) / 10, high + abs(high or 1) / 10
            self.low, self.high = low, high
            self.ticks = sorted(set(values)) if is_discrete else round_numbers(low, high, ticks)

    @property
    def texts(self) -> list[str]:
        """What stands at the ticks, with as many decimals at each."""
        texts = [tick_text(tick) for tick in self.ticks]
        decimals = max(
            (len(text.partition(".")[2]) for text in texts if text[-1].isdigit() and "e" not in text), default=0
        )
        if self.is_log or not decimals or not all(text[-1].isdigit() for text in texts):
            return texts
        return [f"{tick:.{decimals}f}".replace("-", "−") for tick in self.ticks]

    def place(self, value: float) -> float:
        return ((math.log10(value) if self.is_log else value) - self.low) / (self.high - self.low)


def line_chart(
    title: str, lines: Sequence[Line], x_name: str, alt: str, limit: int = 500, is_sweep: bool = False
) -> dict[str, Any]:
    """Lay out a chart for the template.

    Args:
        title: The metric.
        lines: At least one, with at least one point each.
        x_name: What runs along x.
        alt: What the chart shows, in words.
        limit: Most points drawn of a line.
        is_sweep: x takes few values, each gets its tick and each point its mark.
    """
    reach = [
        (x, y + sign * (spread or 0))
        for line in lines
        for (x, y), spread in zip(line.points, line.spreads or [0.0] * len(line.points), strict=True)
        for sign in (-1, 1)
    ] + [dot for line in lines for dot in line.dots]
    x_values = [x for x, _ in reach]
    x_axis = Axis(x_values, 5, may_be_log=is_sweep, is_discrete=is_sweep and len(set(x_values)) <= 8)
    y_axis = Axis([y for _, y in reach], 4, may_be_log=True)

    def x_of(value: float) -> float:
        return round(LEFT + x_axis.place(value) * (WIDTH - LEFT - RIGHT), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - y_axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)

    def placed(points: Sequence[Point]) -> list[Point]:
        return [(x_of(x), y_of(y)) for x, y in points]

    drawn, colours = [], 0
    for line in lines:
        style = "reference" if line.is_reference else f"c{colours % 6}"
        colours += not line.is_reference
        is_smoothed = len(line.points) >= _SMOOTHED_FROM and not is_sweep
        bins = min(_BINS, len(line.points) // _BIN)
        whiskers = [
            (x_of(x), y_of(y - spread), y_of(y + spread))
            for (x, y), spread in zip(line.points, line.spreads, strict=False)
            if spread and not (y_axis.is_log and spread >= y)
        ]
        drawn.append(
            {
                "name": line.name,
                "style": style,
                "path": _path(placed(thinned(line.points, limit))),
                "smoothed": _path(placed(binned(line.points, bins))) if is_smoothed else "",
                "points": placed(line.points) if len(line.points) <= 12 else [],
                "whiskers": whiskers,
                "dots": placed(line.dots),
            }
        )
    return {
        "title": title,
        "alt": alt,
        "x_name": x_name,
        "lines": drawn,
        "x_ticks": [(x_of(tick), text) for tick, text in zip(x_axis.ticks, x_axis.texts, strict=True)],
        "y_ticks": [(y_of(tick), text) for tick, text in zip(y_axis.ticks, y_axis.texts, strict=True)],
        "size": (WIDTH, HEIGHT),
        "box": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
    }


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most ``limit`` points with the same outline: the lowest and the highest of each stretch, and both ends."""
    if len(points) <= limit:
        return list(points)
    kept = [points[0]]
    for stretch in _stretches(points, limit // 2 - 1):
        kept += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [*kept, points[-1]]


def binned(points: Sequence[Point], bins: int) -> list[Point]:
    """Means over ``bins`` stretches of equal length."""
    return [(mean(x for x, _ in part), mean(y for _, y in part)) for part in _stretches(points, bins)]


def _stretches(points: Sequence[Point], count: int) -> list[Sequence[Point]]:
    return [points[n * len(points) // count : (n + 1) * len(points) // count] for n in range(count)]


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About ``count`` multiples of 1, 2 or 5 times a power of ten, between ``low`` and ``high``."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """``0.05``, ``1,500``, ``20k``, ``1.5M``, ``1e-05``."""
    if abs(value) >= 1e4:
        return f"{value / 1e6:.4g}M" if abs(value) >= 1e6 else f"{value / 1e3:.4g}k"
    return f"{value:,.6g}" if abs(value) >= 1000 else f"{value:.6g}".replace("-", "−", 1)


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
