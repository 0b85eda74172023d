"""Trainings without a source: whoever needs none trains and resumes, all others are refused before they begin."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tiny_runs import METHODS, alone, assert_same_training, composed, tiny
from torch import nn

from da_lightning.config.build import build, build_method
from da_lightning.errors import CheckpointError, UserError
from da_lightning.preflight import check_left_out_source
from da_lightning.session import train_and_test
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Batch, Group, Player, Step, Term, Updates

FAMILIES = ["segmentation_source_only", "cyclegan", "reid_source_only"]


class TargetOnly(AdaptationModule):
    """A convolution fitted to noise, by target images alone."""

    needs_source = False

    def __init__(self, max_iters: int, seed: int = 0) -> None:
        super().__init__(max_iters, seed=seed)
        self.save_hyperparameters()
        self.network = nn.Conv2d(3, 3, 3, padding=1)

    def players(self) -> dict[str, Player]:
        return {"network": Player([Group(list(self.parameters()))], {"name": "SGD", "lr": 0.1, "momentum": 0.9})}

    def updates(self, batch: Batch) -> Updates:
        assert batch.keys() == {"target"}
        image = batch["target"]["image"]
        yield Backward("network", {"distance": Term((self.network(image) - torch.rand_like(image)).square().mean())})
        yield Step("network")


def options(family: str, *overrides: str) -> DictConfig:
    """Of a run of :class:`TargetOnly` on the data of a shipped method, tests left out."""
    cfg = composed(f"method={family}", *tiny(family), "test=false", "trainer.enable_progress_bar=false", *overrides)
    OmegaConf.set_struct(cfg, False)
    cfg.method = {"_target_": "test_target_only.TargetOnly", "max_iters": 6, "seed": cfg.seed}
    return cfg


@pytest.fixture
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "test_target_only")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("_trusted", "_settings_restored")
def test_a_target_alone_trains_and_resumes(family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = options(family, "data.source=null", "resume=auto")
    with caplog.at_level("INFO"):
        train_and_test(cfg, tmp_path / "whole", "target_only", family)
    assert "An epoch is 2 iterations of 2 target samples (1 devices x batch size)." in caplog.text
    assert [file.stem for file in (tmp_path / "whole" / "pictures").iterdir()] == ["train_target"]
    for length in (4, 6):
        cfg.method.max_iters = length
        train_and_test(cfg, tmp_path / "parts", "target_only", family)
    assert_same_training(*(tmp_path / run / "checkpoints" / "last.ckpt" for run in ("whole", "parts")))


@pytest.mark.usefixtures("_trusted", "_settings_restored")
def test_a_run_that_had_a_source_does_not_go_on_without(tmp_path: Path) -> None:
    cfg = options(FAMILIES[0], "data.source=null", "resume=auto")
    cfg.method.max_iters = 2
    train_and_test(cfg, tmp_path, "target_only", "toy_streets")
    cfg.method.max_iters, cfg.data.source = 4, options(FAMILIES[0]).data.source
    with pytest.raises(CheckpointError, match=r"source\b.*\bnone\b.*\b8 samples.*accept_changes=\[source,"):
        train_and_test(cfg, tmp_path, "target_only", "toy_streets")


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_need_a_source_are_refused_without(method: str) -> None:
    cfg = composed(f"method={method}", *tiny(method), *alone(method), "data.source=null")
    with pytest.raises(UserError, match=r"data\.source=(null|None)") as caught:
        check_left_out_source(cfg)
        build_method(cfg.method, build(cfg.data, "data"))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
