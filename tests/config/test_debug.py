"""``debug=fast``, ``overfit`` and ``profile``."""

import csv
import json
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import built, composed, tiny, trainer

from da_lightning.session import train_and_test
from da_lightning.stages import train_in_stages
from da_lightning.training.callbacks import SameBatches

SHORT = [
    "method=segmentation_source_only",
    *[option for option in tiny("segmentation_source_only") if "max_iters" not in option],
    "callbacks.pictures=null",
    "callbacks.checkpoint=null",
]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_settings_restored")]


def ran(folder: Path, *options: str) -> list[dict[str, str]]:
    """Rows of training that the run logged."""
    train_and_test(composed(*SHORT, "trainer.log_every_n_steps=1", *options), folder, "source_only", "toy_streets")
    with (folder / "metrics.csv").open() as stream:
        return [row for row in csv.DictReader(stream) if row["train/iteration"]]


def test_fast_is_two_iterations(tmp_path: Path) -> None:
    assert [float(row["train/iteration"]) for row in ran(tmp_path, "debug=fast")] == [0, 1]
    assert json.loads((tmp_path / "metrics.json").read_text())["iterations"] == 2  # not those that were asked for


@pytest.mark.parametrize("method", ["ecn", "spgan", "munit"])
def test_fast_is_two_iterations_of_stages_too(method: str, tmp_path: Path) -> None:
    options = [option for option in tiny(method) if "max_iters" not in option]
    stages = {"ecn": "stages.camera_style.method.max_iters=500", "spgan": "stages.translator.method.max_iters=500"}
    cameras = [f"data.{part}.cameras=2" for part in ("source", "target")] if method == "ecn" else []
    chosen = [stages[method]] if method in stages else []
    cfg = composed(f"method={method}", *options, *chosen, *cameras, "debug=fast", "trainer.log_every_n_steps=1")
    train_in_stages(cfg, tmp_path, method, "toy")
    runs = sorted(tmp_path.rglob("metrics.csv"))
    assert len(runs) == 1 + len(chosen)
    for file in runs:
        with file.open() as stream:
            assert [float(row["train/iteration"]) for row in csv.DictReader(stream) if row["train/iteration"]] == [0, 1]


def test_overfit_learns_two_batches_by_heart(tmp_path: Path) -> None:
    losses = [
        float(row["train/segmenter/segmentation"]) for row in ran(tmp_path, "debug=overfit", "method.max_iters=80")
    ]
    assert len(losses) == 80
    assert max(losses[-2:]) < 0.3 * min(losses[:2])


def test_profile_leaves_its_table(tmp_path: Path) -> None:
    ran(tmp_path, "debug=profile", "method.max_iters=2")
    assert "training_step" in (tmp_path / "fit-profile.txt").read_text()


class Watch(L.Callback):
    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


def test_the_same_batches_come_again(tmp_path: Path) -> None:
    options = ["data.flip=true", "data.colour_jitter=0.5", "data.num_workers=1"]
    for again, callbacks in ((True, [SameBatches()]), (False, [])):
        module, data = built("segmentation_source_only", *options)
        watch = Watch()
        trainer(tmp_path / str(again), watch, *callbacks).fit(module, data)
        assert len(watch.batches) == 6
        for domain in ("source", "target"):
            images = [batch[domain]["image"] for batch in watch.batches]
            assert torch.equal(images[0], images[2]) == torch.equal(images[1], images[5]) == again
            assert not torch.equal(images[0], images[1])
