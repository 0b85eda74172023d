"""The order in which callbacks act."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    ProgressBar,
)
from tiny_runs import METHODS, composed, tiny

from da_lightning.config.build import build
from da_lightning.preflight import build_callbacks
from da_lightning.trainer import run_trainer
from da_lightning.training.callbacks import ChannelsLast, Pictures, SameBatches, StopAtIteration
from da_lightning.training.ema import AveragedWeights
from da_lightning.training.phases import Phase, in_phases, phase_of
from da_lightning.training.progress import ProgressLines
from da_lightning.training.selection import Selection
from da_lightning.training.stopping import StopAtSignal


def acting(folder: Path, *overrides: str) -> list[L.Callback]:
    """The callbacks of a run in the order in which Lightning calls them; without those that the method adds."""
    cfg = composed(*overrides)
    selection: Any = build(cfg.selection, "selection") if cfg.selection else None
    with run_trainer(cfg, folder, "method", build_callbacks(cfg), [], selection, {}) as trainer:
        return list(trainer.callbacks)  # type: ignore[attr-defined]


def names(callbacks: list[L.Callback]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def test_all_callbacks_act_in_their_order(tmp_path: Path) -> None:
    overrides = ["callbacks=ema", "selection=entropy", "debug=overfit", "logger=none"]
    assert names(acting(tmp_path, "method=cbst", *overrides)) == [
        "AveragedWeights",  # writers at the end of training write the average
        "StopAtSignal",
        "StopAtIteration",  # before those that ask whether the training is over
        "Pictures",
        "ChannelsLast",
        "ProgressLines",  # a bar without a terminal; where it is configured
        "SameBatches",
        "Selection",  # before last.ckpt, which holds its decision
        "ModelCheckpoint",
    ]


@pytest.mark.parametrize("callbacks", ["camera_styles", "translations"])
def test_what_writes_files_comes_where_it_is_configured(callbacks: str, tmp_path: Path) -> None:
    found = names(acting(tmp_path, "method=cyclegan", f"callbacks={callbacks}", "selection=entropy"))
    writer = {"camera_styles": "WriteCameraStyles", "translations": "WriteTranslations"}[callbacks]
    assert found[:4] == ["StopAtSignal", "StopAtIteration", "Pictures", "ChannelsLast"]
    assert found[-3:] == [writer, "Selection", "ModelCheckpoint"]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_a_method_is_that_of_its_configuration_between_ends(method: str, tmp_path: Path) -> None:
    cfg = composed(f"method={method}", *tiny(method), "callbacks=ema", "selection=entropy")
    configured = [node["_target_"].rpartition(".")[2] for node in cfg.callbacks.values() if node]
    between = [n for n in configured if n not in ("AveragedWeights", "ModelCheckpoint") and "Progress" not in n]
    found = names(acting(tmp_path, f"method={method}", *tiny(method), "callbacks=ema", "selection=entropy"))
    assert found == ["AveragedWeights", "StopAtSignal", *between, "Selection", "ModelCheckpoint"]


def test_callbacks_of_other_packages_have_a_phase_by_what_they_do(tmp_path: Path) -> None:
    class Theirs(L.Callback):
        phase = "of the moon"

    late, early = OnExceptionCheckpoint(tmp_path), AveragedWeights()
    given = [late, ModelCheckpoint(tmp_path), Theirs(), LearningRateMonitor(), StopAtSignal("x"), early]
    given += [Selection("entropy"), BatchSizeFinder()]
    assert names(in_phases(given)) == [
        *("AveragedWeights", "StopAtSignal", "Theirs", "LearningRateMonitor", "BatchSizeFinder"),
        *("Selection", "OnExceptionCheckpoint", "ModelCheckpoint"),
    ]


@pytest.mark.parametrize(
    ("callback", "phase"),
    [
        (AveragedWeights, Phase.AVERAGE),
        (StopAtSignal, Phase.SIGNALS),
        (StopAtIteration, Phase.WORK),
        (SameBatches, Phase.WORK),
        (ChannelsLast, Phase.WORK),
        (Pictures, Phase.WORK),
        (ProgressLines, Phase.WORK),
        (ProgressBar, Phase.WORK),
        (Selection, Phase.SELECTION),
    ],
)
def test_each_of_ours_names_its_phase(callback: type[L.Callback], phase: Phase) -> None:
    assert phase_of(callback.__new__(callback)) == phase
    assert "phase" in vars(callback) or not callback.__module__.startswith("da_lightning")
