"""A ranking of Market-1501's size, 3,368 queries x 15,913 images: seconds, and memory beyond the features.

python -m benchmarks.ranking [rerank]
"""

import resource
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from da_lightning.reid.ranking import Ranking

QUERIES, GALLERY, DISTRACTORS, PERSONS, CAMERAS, FEATURES = 3368, 15913, 2798, 750, 6, 2048
SAMPLE = 40


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Features, persons and cameras, queries first; hard enough for a mAP of about one half."""
    generator = torch.Generator().manual_seed(0)
    person = torch.randint(1, PERSONS + 1, (QUERIES + GALLERY,), generator=generator)
    person[-DISTRACTORS:] = 0
    camera = torch.randint(CAMERAS, person.shape, generator=generator)
    means = torch.randn(PERSONS + 1, FEATURES, generator=generator)
    features = torch.randn(len(person), FEATURES, generator=generator).mul_(3.8)
    for part in torch.arange(len(person)).split(1024):
        features[part] += means[person[part]]
    return features, person, camera


def ours(features: Tensor, person: Tensor, camera: Tensor, rerank: bool = False) -> float:
    metric = Ranking(rerank=rerank)
    for part in torch.arange(len(person)).split(256):
        metric.update(features[part], person[part], camera[part], part < QUERIES)
    return metric.compute()["map"].item()


def ours_reranked(features: Tensor, person: Tensor, camera: Tensor) -> float:
    return ours(features, person, camera, rerank=True)


def distances_alone(features: Tensor, person: Tensor, camera: Tensor) -> float:
    """The products of queries and gallery, and nothing else."""
    return max(float((query @ features[QUERIES:].T).amax()) for query in features[:QUERIES].split(256))


def by_loop(features: Tensor, person: Tensor, camera: Tensor) -> float:
    """The definition on a sample: sort the whole gallery, walk down, average the precisions."""
    unit = torch.nn.functional.normalize(features)
    persons, cameras = person[QUERIES:].tolist(), camera[QUERIES:].tolist()
    precisions = []
    for q in range(SAMPLE):
        own_person, own_camera = int(person[q]), int(camera[q])
        hits, kept, total = 0, 0, 0.0
        for g in (1 - unit[q] @ unit[QUERIES:].T).argsort(stable=True).tolist():
            same = persons[g] == own_person
            if same and cameras[g] == own_camera:
                continue
            kept += 1
            if same:
                hits += 1
                total += hits / kept
        precisions.append(total / hits)
    return sum(precisions) / SAMPLE


def measured(function: Callable[[Tensor, Tensor, Tensor], float]) -> tuple[float, float, float]:
    """Result, seconds and peak MB beyond the features, of ``function`` in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (function,))


def _measure(function: Callable[[Tensor, Tensor, Tensor], float]) -> tuple[float, float, float]:
    data = drawn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    result = function(*data)
    seconds = time.perf_counter() - started
    return result, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    title = f"{QUERIES} x {GALLERY} x {FEATURES}, {torch.get_num_threads()} threads"
    table = Table(title=title, title_justify="left")
    for column in ("way", "seconds", "peak MB", "mAP"):
        table.add_column(column, justify="right")
    ways = {"ours": ours} | ({"ours, then re-ranked": ours_reranked} if "rerank" in sys.argv else {})
    for name, way in ways.items():
        score, seconds, peak = measured(way)
        table.add_row(name, f"{seconds:.1f}", f"{peak:.0f}", f"{score:.4f}")
    _, seconds, peak = measured(distances_alone)
    table.add_row("query @ gallery.T alone", f"{seconds:.1f}", f"{peak:.0f}", "-")
    score, seconds, peak = measured(by_loop)
    name = f"Python loop (from {SAMPLE} queries)"
    table.add_row(name, f"{seconds / SAMPLE * QUERIES:.0f}", f"{peak:.0f}", f"{score:.4f} of those")
    Console().print(table)


if __name__ == "__main__":
    main()
