"""Schedules by name, schedules of torch, and which player has which."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import assert_same_training, built, composed, trainer

from da_lightning.config.build import build
from da_lightning.errors import UserError
from da_lightning.training.schedules import make_schedule, scheduled

RESTARTS = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts", "T_0": 3}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "constant"}, {0: 1, 40_000: 1}),
        # DAFormer: warm-up over 1,500 of 40,000 iterations, times linear decay.
        ({"name": "linear", "warmup": 1500}, {0: 1e-6, 750: 0.4906, 1500: 0.9625, 20_000: 0.5, 40_000: 0, 50_000: 0}),
        ({"name": "linear", "decay_from": 20_000}, {0: 1, 20_000: 1, 30_000: 0.5, 40_000: 0}),
        ({"name": "poly"}, {0: 1, 20_000: 0.5**0.9, 40_000: 0}),
        ({"name": "poly", "power": 2.0, "horizon": 100}, {0: 1, 50: 0.25, 100: 0}),
        ({"name": "steps", "at": [0.5, 0.75]}, {19_999: 1, 20_000: 0.1, 30_000: 0.01}),
        ({"name": "steps", "every": 100, "factor": 0.5}, {99: 1, 100: 0.5, 250: 0.25}),
        ({"name": "steps", "every": 100, "factor": 0.5, "ahead": 1}, {98: 1, 99: 0.5}),
        ({"name": "cosine", "final": 0.2}, {0: 1, 20_000: 0.6, 40_000: 0.2, 50_000: 0.2}),
        ({"name": "cosine", "warmup": 10, "horizon": 1000}, {0: 0.1, 4: 0.5, 500: 0.5, 1000: 0}),
    ],
)
def test_factors(options: dict[str, Any], expected: dict[int, float]) -> None:
    factor = make_schedule(options, 40_000)
    assert callable(factor)
    assert {at: factor(at) for at in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_none_is_the_methods_own() -> None:
    own = make_schedule({"name": "poly"}, 10)
    assert make_schedule(None, 10, own) is own


def test_a_schedule_of_torch_is_stepped_each_iteration() -> None:
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2)]
    ours = scheduled(optimizers[0], make_schedule(RESTARTS, 10))
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizers[1], T_0=3)
    for _ in range(7):
        assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]
        for optimizer, schedule in zip(optimizers, (ours, theirs), strict=True):
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "polynomial"}, "method.schedule.name .*poly.*'polynomial'"),
        ({}, "method.schedule.name .*None"),
        ({"name": "poly", "powr": 2}, "method.schedule.powr .*power"),
        ({"name": "linear", "warmup": -1}, "method.schedule.warmup=-1"),
        ({"_target_": "os.system"}, "method.schedule._target_.*os.system"),
        ({"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "steps by itself.*ReduceLROnPlateau"),
        ({"_target_": "torch.optim.lr_scheduler.StepLR"}, "method.schedule.step_size"),
        ({**RESTARTS, "T_0": 0}, "CosineAnnealingWarmRestarts .*T_0"),
    ],
)
def test_what_is_none_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_schedule(options, 10)


class Rates(Callback):
    """Learning rates of each optimiser's first group before each batch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


@pytest.mark.slow
def test_each_player_has_its_own_and_a_resumed_run_follows_it(tmp_path: Path) -> None:
    names = "{name: steps, every: 2, factor: 0.5}", f"{{_target_: {RESTARTS['_target_']}, T_0: 3}}"
    words = [f"method.schedule={names[0]}", f"method.discriminator_schedule={names[1]}"]
    module, data = built("munit", *words)
    rates = Rates()
    trainer(tmp_path / "whole", rates).fit(module, data)
    first, second = (list(column) for column in zip(*rates.rates, strict=True))
    assert first == pytest.approx([first[0] * 0.5 ** (n // 2) for n in range(6)])
    assert second == pytest.approx([second[0] * share for share in (1, 0.75, 0.25, 1, 0.75, 0.25)])

    module, data = built("munit", *words)
    middle = tmp_path / "whole" / "checkpoints" / "epoch=1.ckpt"
    trainer(tmp_path / "rest").fit(module, data, ckpt_path=middle, weights_only=True)
    assert_same_training(*(tmp_path / part / "checkpoints" / "last.ckpt" for part in ("whole", "rest")))


def test_a_recipe_names_no_class_but_a_schedule() -> None:
    cfg = composed("method=cbst", "method.schedule={_target_: os.system}")
    with pytest.raises(UserError, match=r"method\.schedule\._target_=os\.system"):
        build(cfg.method, "method")
