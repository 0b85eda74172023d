"""How close each score's choice of weights comes to the oracle's and to the last, as a table in Markdown.

python -m benchmarks.selection method=cbst data=toy_streets seeds=0,1 [folder=outputs/selection] [more options of a run]

A seed is one training, in which all scores look at the same weights at each epoch's end; so their choices differ in
nothing else. The target's labels are read for the comparison, and choose only in the row of the oracle.
"""

import csv
import platform
import sys
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from da_lightning.config import CONF_DIR
from da_lightning.config.build import build
from da_lightning.errors import UserError
from da_lightning.session import train_and_test
from da_lightning.training.module import AdaptationModule

SCORES = ("entropy", "snd", "source", "oracle")


class Choice(NamedTuple):
    """What a score chose in one training; ``target`` is the measure (0..1) on the target's test set."""

    epoch: int
    target: float
    below_oracle: float
    above_last: float
    correlation: float


def trained(overrides: list[str], seed: int, folder: Path) -> dict[str, list[float]]:
    """Each score after each epoch."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", overrides=["logger=csv", "callbacks.progress=null", *overrides, f"seed={seed}"])
    module = build(cfg.method, "method")
    possible = [score for score in SCORES if _is_possible(module, score)]
    with open_dict(cfg.callbacks):
        for score in possible:
            with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
                cfg.callbacks[f"selection_{score}"] = compose("config", overrides=[f"selection={score}"]).selection
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml")
    train_and_test(cfg, folder, "method", "data")
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {score: f"val/selection/{score}" for score in possible}
    return {score: [float(row[name]) for row in rows if row.get(name)] for score, name in names.items()}


def _is_possible(module: AdaptationModule, score: Any) -> bool:
    try:
        module.selection_score(score, 1.0)
    except UserError as error:
        print(f"Left out: {error}")
        return False
    return True


def choices(values: dict[str, list[float]]) -> dict[str, Choice]:
    """By score, and ``last``."""
    target = values["oracle"]
    best = {score: _first_best(series, score) for score, series in values.items()} | {"last": len(target) - 1}
    return {
        score: Choice(
            epoch + 1,
            target[epoch],
            max(target) - target[epoch],
            target[epoch] - target[-1],
            float("nan") if score == "last" else rank_correlation(_oriented(values[score], score), target),
        )
        for score, epoch in best.items()
    }


def _first_best(series: list[float], score: str) -> int:
    oriented = _oriented(series, score)
    return oriented.index(max(oriented))


def _oriented(series: list[float], score: str) -> list[float]:
    return [-value for value in series] if score == "entropy" else series


def rank_correlation(one: list[float], other: list[float]) -> float:
    """Spearman's, without ties."""
    ranks = torch.stack([torch.tensor(series).argsort().argsort().double() for series in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def table(seeds: dict[int, dict[str, Choice]], epochs: int) -> str:
    """Means over seeds; numbers are in points of mIoU or mAP."""
    lines = [
        f"| chosen by | epoch (of {epochs}) | target (%) | below the oracle | above the last | rank correlation |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    order = [score for score in ("last", *SCORES) if score in next(iter(seeds.values()))]
    for score in order:
        found = [by_score[score] for by_score in seeds.values()]
        where = ", ".join(str(choice.epoch) for choice in found)
        numbers = [mean(100 * value for value in column) for column in list(zip(*found, strict=True))[1:4]]
        correlation = mean(choice.correlation for choice in found)
        written = f"{correlation:+.2f}" if correlation == correlation else ""
        lines.append(f"| {score} | {where} | {numbers[0]:.1f} | {numbers[1]:.1f} | {numbers[2]:+.1f} | {written} |")
    return "\n".join(lines)


def main() -> None:
    own = dict(a.split("=", 1) for a in sys.argv[1:] if a.startswith(("seeds=", "folder=")))
    overrides = [a for a in sys.argv[1:] if not a.startswith(("seeds=", "folder="))]
    folder = Path(own.get("folder", "outputs/selection")).resolve()
    seeds, epochs = {}, 0
    for seed in map(int, own.get("seeds", "0").split(",")):
        values = trained(overrides, seed, folder / f"seed_{seed}")
        seeds[seed], epochs = choices(values), len(values["oracle"])
    print(f"\npython -m benchmarks.selection {' '.join(sys.argv[1:])}")
    print(
        f"{date.today():%d %B %Y}, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(table(seeds, epochs))


if __name__ == "__main__":
    main()
