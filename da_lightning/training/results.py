"""What a run leaves behind: ``metrics.json``, a table, bars."""

import json
import logging
import platform
import re
import resource
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import da_lightning
from da_lightning.files import whole_file, write_text
from da_lightning.names import shown

log = logging.getLogger(__name__)

Scores = Mapping[str, float]

_SHARE = re.compile(r"(miou|iou|accuracy|(reranked_)?(map|map_trapezoid|rank\d+))(/|$)")


def write_metrics(file: Path, summary: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` in one step, so that no half-written file is ever found; NaN becomes null.

    Raises:
        DiskError: The disk does not take it.
    """
    write_text(file, json.dumps(_without_nan(summary), indent=2, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; ``commit`` where this package is a git checkout."""
    packages = ("torch", "torchvision", "lightning", "torchmetrics")
    own = {"da_lightning": da_lightning.__version__, "commit": _commit()}
    known = {name: number for name, number in own.items() if number}
    return {**known, "python": platform.python_version(), **{name: version(name) for name in packages}}


def _commit() -> str | None:
    """``4f1c...``, with ``-dirty`` behind it where tracked files differ."""
    root = Path(da_lightning.__file__).parents[1]
    if not (root / ".git").exists():  # a repository further up would be somebody else's
        return None
    described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(described, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mb() -> float:
    """Largest memory of this process so far: on the GPU where one was used, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)


def print_table(scores: Scores, title: str) -> None:
    """One row a metric, in per cent if a share, one column a test set; source-only scores stand beside."""
    columns: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        column, metric = _split(key)
        columns.setdefault(column, {})[metric] = value
    table = Table(title=Text(shown(title)), title_justify="left")
    table.add_column("metric")
    for column in columns:
        table.add_column(Text(shown(column)), justify="right")
    for metric in dict.fromkeys(metric for column in columns.values() for metric in column):
        in_per_cent = is_share(metric)
        values = [column.get(metric) for column in columns.values()]
        cells = ["" if v is None else f"{100 * v:.1f}" if in_per_cent else f"{v:.4g}" for v in values]
        name = Text(shown(f"{metric} (%)" if in_per_cent else metric))  # as it is, not as rich's markup
        table.add_row(name, *cells, style="bold" if "/" not in metric else None)
    Console().print(table)


def draw_bars(scores: Scores, file: Path) -> None:
    """Bars of every per-class metric (``<set>/<metric>/<class>``), one panel a test set; a warning where they fail."""
    try:
        _draw_bars(scores, file)
    except Exception as error:  # a full disk; matplotlib reads names like $x^$ as formulas
        log.warning("%s was left out: %s", file.name, " ".join(str(error).split()))


def _draw_bars(scores: Scores, file: Path) -> None:
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in scores.items():
        column, metric = _split(key)
        name, _, item = metric.partition("/")
        if item:
            panels.setdefault(f"{column.removeprefix('source_only/')}: {name}", {}).setdefault(column, {})[item] = value
    if not panels:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for number, (column, values) in enumerate(sorted(series.items(), key=_is_result)):
            width = 0.8 / len(series)
            places = [i + (number - (len(series) - 1) / 2) * width for i in range(len(values))]
            label, colour = ("this method", "#0b6e99") if _is_result((column, values)) else ("source only", "#9aa5b1")
            axes.bar(places, [100 * v for v in values.values()], width, label=label, color=colour)
        axes.set_xticks(range(len(values)), list(values), rotation=30, ha="right")
        axes.set_title(f"{title} (%)", loc="left", fontsize=10)
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(frameon=False)
    with whole_file(file) as part:
        figure.savefig(part, dpi=110)


def is_share(metric: str) -> bool:
    """Whether a metric (``iou/road``) is a share, shown in per cent; more is better."""
    return bool(_SHARE.match(metric))


def _is_result(series: tuple[str, Scores]) -> bool:
    return not series[0].startswith("source_only/")


def _split(key: str) -> tuple[str, str]:
    """``source_only/target/iou/road`` -> ``source_only/target``, ``iou/road``."""
    parts = key.split("/")
    head = 2 if parts[0] in ("source_only", "last") else 1
    return "/".join(parts[:head]), "/".join(parts[head:])


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value
