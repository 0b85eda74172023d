"""Run folders as runs leave them, written in a blink without training."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CLASSES = {"road": [128, 64, 128], "car": [0, 0, 142], "sky": [70, 130, 180]}
VERSIONS = {"python": "3.12.1", "torch": "2.10.0", "lightning": "2.6.6"}


def finished_run(
    folder: Path,
    method: str = "cbst",
    seed: int = 0,
    miou: float = 0.5,
    before: float | None = None,
    overrides: Sequence[str] = (),
    selection: str = "last iteration",
    options: Mapping[str, Any] | None = None,
    pictures: Sequence[str] = (),
) -> Path:
    """A segmentation run: scores of two test sets, a configuration, 100 points of two losses, pictures of noise."""
    scores = {f"{place}/{key}": value for place in ("target", "source") for key, value in _scores(miou).items()}
    if before is not None:
        scores |= {f"source_only/{place}/{k}": v for place in ("target", "source") for k, v in _scores(before).items()}
    summary = {
        "method": method,
        "data": "toy_streets",
        "seed": seed,
        "selection": selection,
        "objective": "target/miou",
        "versions": VERSIONS,
        "iterations": 1000,
        "devices": 1,
        "test": scores,
        "seconds": 154.2,
        "peak_memory_mb": 1234.5,
    }
    config = {
        "seed": seed,
        "method": {
            "_target_": "da_lightning.segmentation.cbst.CBST",
            "classes": dict(CLASSES),
            "seed": "${seed}",
            **(options or {}),
        },
        "data": {"root": "/data", "num_workers": seed},
    }
    write(folder / "metrics.json", json.dumps(summary))
    write(folder / ".hydra" / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write(folder / ".hydra" / "overrides.yaml", yaml.safe_dump([*overrides, f"seed={seed}"]))
    write(
        folder / ".hydra" / "hydra.yaml",
        yaml.safe_dump({"hydra": {"runtime": {"choices": {"method": method, "data": "toy_streets"}}}}),
    )
    logged = [{"step": n, "train/iteration": n, **_losses(n)} for n in range(0, 1000, 10)]
    logged += [{"step": 100 * n, **_round(n)} for n in (1, 2)]
    write_points(folder / "metrics.csv", logged)
    for name in pictures:
        noise(folder / "pictures" / f"{name}.png")
    return folder


def swept_runs(folder: Path, keys: Mapping[str, Sequence[Any]], seeds: Sequence[int] = (0,)) -> Path:
    """A sweep over the grid of ``keys``; mIoU is 0.1 for each step along a key, and 0.01 for each seed."""
    grid: list[tuple[dict[str, Any], float]] = [({}, 0.2)]
    for key, values in keys.items():
        grid = [({**at, key: value}, miou + 0.1 * n) for at, miou in grid for n, value in enumerate(values)]
    jobs = [(at, miou, seed) for at, miou in grid for seed in seeds]
    for number, (at, miou, seed) in enumerate(jobs):
        options = {key.rpartition(".")[2]: value for key, value in at.items()}
        overrides = ["data=toy_streets", *(f"{key}={value}" for key, value in at.items())]
        finished_run(folder / str(number), seed=seed, miou=miou + 0.01 * seed, options=options, overrides=overrides)
    write(folder / "multirun.yaml", "hydra: {}")
    return folder


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_points(file: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """As Lightning's csv logger: a column for each name there ever was, empty where a row has none."""
    names = sorted({name for row in rows for name in row})
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    write(file, "\n".join(lines) + "\n")


def noise(file: Path, size: tuple[int, int] = (96, 64)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", size, random.Random(file.name).randbytes(3 * size[0] * size[1])).save(file)


def _scores(miou: float) -> dict[str, float]:
    return {"miou": miou, **{f"iou/{name}": miou - 0.1 + 0.1 * n for n, name in enumerate(CLASSES)}}


def _losses(n: int) -> dict[str, float]:
    return {
        f"train/segmenter/adversarial_{domain}": math.exp(-n / 300) + k for k, domain in enumerate(("source", "target"))
    }


def _round(n: int) -> dict[str, float]:
    numbers = {"round": n, "pseudo_labels/portion": 0.1 * n, "pseudo_labels/share": 0.1 * n}
    for k, name in enumerate(CLASSES):
        numbers |= {f"pseudo_labels/share/{name}": 0.1 * n + 0.01 * k, f"pseudo_labels/tau/{name}": 0.9 - 0.1 * k}
    return numbers
