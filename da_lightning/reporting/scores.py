"""Names of test scores: what they are of, how they are written, which way is better."""

import re
from collections.abc import Iterable
from statistics import mean, stdev
from typing import NamedTuple

ROLES = ("source_only", "oracle", "last")

_SHARE = re.compile(r"(reranked_)?(miou|iou|accuracy|map|map_trapezoid|rank\d+)")
_LOWER_IS_BETTER = re.compile(r"l1|l2|fid|kid|loss|error|distance|entropy")
_WRITTEN = {"miou": "mIoU", "iou": "IoU", "map": "mAP", "fid": "FID", "kid": "KID", "lpips": "LPIPS", "l1": "L1"}
_MAIN = ("miou", "map", "accuracy", "fid")


class Score(NamedTuple):
    """``source_only/target/iou/road`` in its parts; what is not in the name is empty."""

    role: str
    place: str
    metric: str
    item: str = ""

    @property
    def is_share(self) -> bool:
        return bool(_SHARE.fullmatch(self.metric))

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if _LOWER_IS_BETTER.search(self.metric) else 1

    @property
    def title(self) -> str:
        """``target mIoU``, or the class."""
        role = f"{self.role.replace('_', ' ')}: " if self.role else ""
        return f"{role}{self.place} {self.item or written(self.metric)}".strip()

    @property
    def measured(self) -> str:
        """The title with its unit."""
        return f"{self.title} (%)" if self.is_share else self.title

    def shown(self, value: float | None) -> str:
        """A value as it stands in a table: shares in per cent."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.is_share else f"{value:.4g}"

    def spread(self, spread: "Spread") -> str:
        """``50.1 ± 0.4``, or the single value."""
        deviation = f" ± {self.shown(spread.deviation)}" if spread.deviation is not None else ""
        return self.shown(spread.mean) + deviation

    def change(self, value: float) -> str:
        """A difference with its sign, shares in points."""
        text = self.shown(abs(value))
        return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def parse(name: str) -> Score:
    """The parts of a name; a lone ``fid`` has no place."""
    parts = name.split("/")
    role = parts.pop(0) if parts[0] in ROLES and len(parts) > 1 else ""
    place = parts.pop(0) if len(parts) > 1 else ""
    return Score(role, place, parts[0], "/".join(parts[1:]))


def main_score(scores: Iterable[Score], objective: str | None) -> Score | None:
    """The objective if it was scored, else the field's own measure on the target, else the first of the run's."""
    own = [score for score in scores if not score.role and not score.item]
    wanted = [parse(objective)] if objective else []
    usual = (Score("", place, metric) for metric in _MAIN for place in ("target", ""))
    return next((score for score in (*wanted, *usual, *own) if score in own), None)


def written(metric: str) -> str:
    """``rank1`` -> ``rank-1``, ``cycle_l1`` -> ``cycle L1``."""
    words = re.sub(r"(?<=rank)(\d+)", r"-\1", metric).split("_")
    return " ".join(_WRITTEN.get(word, word) for word in words)


class Spread(NamedTuple):
    """Mean and sample standard deviation (``None`` for a single value)."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of the values that are there; ``None`` if none is."""
        known = [value for value in values if value is not None]
        return cls(mean(known), stdev(known) if len(known) > 1 else None) if known else None
