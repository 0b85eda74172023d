"""Exact thresholds by streaming counts against the definition by sorting: time and peak memory, side by side.

python -m benchmarks.pseudo_labels [images]
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from da_lightning.segmentation.pseudo_labels import find_thresholds

CLASSES, SIZE, PORTION = 19, (512, 1024), 0.2


def maps(count: int) -> Iterator[Tensor]:
    """Probability maps made anew on each pass, as a network would."""
    for seed in range(count):
        logits = 4 * torch.randn(1, CLASSES, *SIZE, generator=torch.Generator().manual_seed(seed))
        yield logits.softmax(1)


def by_sorting(count: int) -> Tensor:
    """The definition: keep the confidences of every class, sort them, take the one of the rank."""
    confidences: list[list[Tensor]] = [[] for _ in range(CLASSES)]
    for probabilities in maps(count):
        confidence, predicted = probabilities.max(1)
        for c in range(CLASSES):
            confidences[c].append(confidence[predicted == c])
    tau = torch.ones(CLASSES)
    for c, parts in enumerate(confidences):
        ordered = torch.cat(parts).sort(descending=True).values
        rank = int(len(ordered) * PORTION)
        tau[c] = ordered[rank - 1] if rank else 1.0
    return tau


def by_counting(count: int) -> Tensor:
    return find_thresholds(lambda: maps(count), CLASSES, PORTION).tau


def drawing_alone(count: int) -> Tensor:
    """What both pay for the maps themselves (counting goes through them twice)."""
    return torch.stack([m.amax() for m in maps(count)])


def measured(function: Callable[[int], Tensor], count: int) -> tuple[list[float], float, float]:
    """Result, seconds and peak MB of ``function`` in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (function, count))


def _measure(function: Callable[[int], Tensor], count: int) -> tuple[list[float], float, float]:
    started = time.perf_counter()
    result = function(count).tolist()
    return result, time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    table = Table(title=f"Thresholds of {count} maps {CLASSES} x {SIZE[0]} x {SIZE[1]}", title_justify="left")
    for column in ("way", "seconds", "peak MB", "same thresholds"):
        table.add_column(column, justify="right")
    expected, *_ = sorting = measured(by_sorting, count)
    for name, (tau, seconds, peak) in (
        ("sorting all confidences", sorting),
        ("streaming counts (ours, two passes)", measured(by_counting, count)),
        ("making the maps once", measured(drawing_alone, count)),
    ):
        same = "-" if "making" in name else str(tau == expected)
        table.add_row(name, f"{seconds:.1f}", f"{peak:.0f}", same)
    Console().print(table)


if __name__ == "__main__":
    main()
