"""Trainings that have ended and are made longer."""

from pathlib import Path

import pytest
from tiny_runs import Draws, assert_same_training, built, trainer


@pytest.mark.slow
def test_a_training_made_longer_at_an_epochs_end_is_the_longer_one(tmp_path: Path) -> None:
    drawn = {}
    for name, length, workers, checkpoint in (
        ("whole", 8, 0, None),
        ("short", 4, 2, None),
        ("longer", 8, 2, tmp_path / "short" / "checkpoints" / "last.ckpt"),
    ):
        module, data = built("munit", f"method.max_iters={length}", f"data.num_workers={workers}")
        draws = Draws(data)
        trainer(tmp_path / name, draws).fit(module, data, ckpt_path=checkpoint, weights_only=True)
        drawn[name] = draws.drawn
    assert drawn["short"] + drawn["longer"] == drawn["whole"]
    assert_same_training(*(tmp_path / name / "checkpoints" / "last.ckpt" for name in ("longer", "whole")))
