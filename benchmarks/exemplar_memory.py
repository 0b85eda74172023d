"""ECN's exemplar memory against the published formulation: loss, gradient and update, and memory beyond the bank.

OMP_NUM_THREADS=2 python -m benchmarks.exemplar_memory [target images]
"""

import resource
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from da_lightning.reid.exemplar_memory import ExemplarMemory

DIM, BATCH, BETA, NEIGHBOURS, ALPHA, REPEATS = 4096, 128, 0.05, 6, 0.3, 10


def ours(bank: Tensor) -> Callable[[Tensor, Tensor], None]:
    memory = ExemplarMemory(1, DIM, BETA, neighbours=0, dtype=bank.dtype)
    memory.bank, memory.size, memory.neighbours = bank, len(bank), NEIGHBOURS  # not twice in memory

    def step(v: Tensor, index: Tensor) -> None:
        loss, _ = memory.loss(v, index, True)
        loss.backward()
        memory.update(v.detach(), index, ALPHA)

    return step


def published(bank: Tensor) -> Callable[[Tensor, Tensor], None]:
    """All similarities sorted, two targets as long as the bank, one row after another."""

    def step(v: Tensor, index: Tensor) -> None:
        s = v.mm(bank.t()) / BETA
        nearest = s.detach().clone().sort(1, descending=True).indices[:, :NEIGHBOURS]
        target = torch.zeros_like(s).scatter_(1, nearest, 1 / NEIGHBOURS).scatter_(1, index[:, None], 1.0)
        (-target * F.log_softmax(s, 1)).sum(1).mean().backward()
        with torch.no_grad():
            for feature, row in zip(v, index, strict=True):
                bank[row] = ALPHA * bank[row] + (1 - ALPHA) * feature
                bank[row] /= bank[row].norm()

    return step


def products_alone(bank: Tensor) -> Callable[[Tensor, Tensor], None]:
    """The two matrix products that no formulation can do without."""

    def step(v: Tensor, index: Tensor) -> None:
        v.detach().mm(bank.t()).mm(bank)

    return step


def measured(make: Callable, size: int, dtype: torch.dtype) -> tuple[float, float, float]:
    """Best and median seconds of a step, and MB beyond the bank at most, in a process of its own (Linux)."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (make, size, dtype))


def _measure(make: Callable, size: int, dtype: torch.dtype) -> tuple[float, float, float]:
    generator = torch.Generator().manual_seed(0)
    bank = torch.empty(size, DIM, dtype=dtype)
    for rows in bank.split(512):
        rows.copy_(F.normalize(torch.randn(rows.shape, generator=generator)))
    step, seconds = make(bank), []
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    for _ in range(REPEATS):
        v = F.dropout(F.normalize(torch.randn(BATCH, DIM, generator=generator))).requires_grad_()
        index = torch.randperm(size, generator=generator)[:BATCH]
        started = time.perf_counter()
        step(v, index)
        seconds.append(time.perf_counter() - started)
    return (
        min(seconds),
        sorted(seconds)[REPEATS // 2],
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - resident,
    )


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 12936  # Market-1501
    title = f"Memory of {size} x {DIM}, batch {BATCH}, {torch.get_num_threads()} threads"
    table = Table(title=title, title_justify="left")
    for column in ("way", "best s", "median s", "bank MB", "beyond it MB"):
        table.add_column(column, justify="right")
    for name, make, dtype in (
        ("published formulation", published, torch.float32),
        ("ours", ours, torch.float32),
        ("ours, bfloat16 bank", ours, torch.bfloat16),
        ("the two products alone", products_alone, torch.float32),
    ):
        best, median, beyond = measured(make, size, dtype)
        table.add_row(
            name, f"{best:.3f}", f"{median:.3f}", f"{size * DIM * dtype.itemsize / 2**20:.0f}", f"{beyond:.0f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
