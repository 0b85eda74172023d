"""The base of rounds, with labels that are no files: when they are made, under what, and what a resumed run has."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import assert_same_training, built, trainer

from da_lightning.errors import CheckpointError
from da_lightning.training.ema import AveragedWeights
from da_lightning.training.rounds import Rounds

pytestmark = pytest.mark.slow

METHOD = "reid_source_only"  # six iterations, two an epoch


class Clusters(Rounds):
    """Numbers each target image by the first of its features."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made: list[tuple[int, int]] = []
        self.used: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def make(self, trainer: L.Trainer, module: Any, folder: Path) -> dict[str, Any]:
        assert not module.training and not torch.is_grad_enabled()
        data = trainer.datamodule
        batches = data.ordered_loader(data.unlabelled_target())
        features = torch.cat([module.embed(batch["image"])[:, 0] for batch in batches])
        self.made.append((self.round, module.iterations_done))
        self.weights.append(next(module.parameters()).detach().clone())
        return {"clusters": features.argsort()}

    def use(self, trainer: L.Trainer, module: Any, folder: Path) -> None:
        self.used.append(self.labels["clusters"])


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"every": 1, "unit": "epochs"}, [(1, 0), (2, 2), (3, 4)]),
        ({"every": 1, "begin": 1, "unit": "epochs"}, [(1, 2), (2, 4)]),
        ({"every": 1, "rounds": 1, "unit": "epochs"}, [(1, 0)]),
        ({"every": 2, "begin": 2}, [(1, 2), (2, 4)]),
        ({"every": 4}, [(1, 0), (2, 4)]),
        ({"every": 4, "begin": 6}, []),
    ],
)
def test_rounds_begin_before_training_and_where_epochs_end(
    options: dict[str, Any], made: list[tuple[int, int]], tmp_path: Path
) -> None:
    rounds = Clusters(**options)
    trainer(tmp_path, rounds).fit(*built(METHOD))
    assert rounds.made == made and len(rounds.used) == len(made)
    assert not (tmp_path / "pseudo_labels").exists()


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_has_the_labels_of_its_round_and_does_not_make_them_again(epoch: int, tmp_path: Path) -> None:
    whole, resumed = Clusters(every=4, begin=2), Clusters(every=4, begin=2)
    trainer(tmp_path / "whole", whole).fit(*built(METHOD))
    checkpoint = tmp_path / "whole" / "checkpoints" / f"epoch={epoch}.ckpt"
    trainer(tmp_path / "moved", resumed).fit(*built(METHOD, seed=1), ckpt_path=checkpoint, weights_only=True)
    assert (whole.made, resumed.made) == ([(1, 2)], [])
    assert torch.equal(whole.used[0], resumed.used[0])
    assert_same_training(*(tmp_path / name / "checkpoints" / "epoch=2.ckpt" for name in ("whole", "moved")))


def test_labels_are_made_by_the_average(tmp_path: Path) -> None:
    rounds = Clusters(every=1, begin=2, unit="epochs")
    trainer(tmp_path, AveragedWeights(0.5), rounds).fit(*built(METHOD))
    states = torch.load(tmp_path / "checkpoints" / "epoch=1.ckpt", weights_only=True)
    name = next(iter(states["state_dict"]))
    assert torch.equal(rounds.weights[0], states["state_dict"][name])
    assert not torch.equal(rounds.weights[0], states["current_model_state"][name])


def test_states_that_are_none_of_ours_are_told() -> None:
    with pytest.raises(CheckpointError, match=r"The checkpoint's round is '\.\./\.\.': give another file"):
        Clusters(every=1).load_state_dict({"round": "../..", "folder": ""})
    with pytest.raises(CheckpointError, match=r"round 2 is from another version, whose rounds cannot be resumed"):
        Clusters(every=1).load_state_dict({"round": 2, "tau": [], "counts": [], "folder": "", "is_fresh": False})
