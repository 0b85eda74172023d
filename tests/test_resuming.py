"""Runs that continue: from what is whole, as what they were, and from nothing that nobody asked for."""

import errno
import json
import logging
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from tiny_runs import assert_same_training, composed, tiny

from da_lightning.errors import CheckpointError, UserError
from da_lightning.files import DiskError
from da_lightning.session import train_and_test
from da_lightning.training import checkpoint_io

METHOD = "segmentation_source_only"
QUICK = ("callbacks.pictures=null", "trainer.enable_progress_bar=false")


class Bomb:
    """Unpickled by a loader that runs code, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@lru_cache
def options(method: str, selection: str) -> DictConfig:
    return composed(f"method={method}", f"selection={selection}", *tiny(method), *QUICK)


def train(
    folder: Path, *overrides: str, method: str = METHOD, name: str | None = None, selection: str = "last"
) -> None:
    cfg = options(method, selection).copy()
    OmegaConf.set_struct(cfg, False)
    cfg.merge_with_dotlist(list(overrides))
    train_and_test(cfg, folder, name or method, "toy_streets")


def scores(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["test"]


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, "method.horizon=6", selection="entropy")
    return folder


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    train(folder, "method.horizon=6", "method.max_iters=4", "test=false", selection="entropy")
    (folder / "metrics.json").unlink()
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """The same, stopped after four, in a folder that was moved since."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))


def resume(folder: Path, *overrides: str) -> None:
    train(folder, "method.horizon=6", "resume=auto", *overrides, selection="entropy")


# -- the newest checkpoint that is whole -------------------------------------------------------------------------------


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_checkpoint_costs_an_epoch(
    stopped: Path, whole: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    damage(last(stopped))
    with caplog.at_level(logging.WARNING):
        resume(stopped)
    assert "previous.ckpt, after iteration 2: what came later, one epoch at most" in caplog.text
    assert_same_training(last(stopped), last(whole))
    assert scores(stopped) == scores(whole)


def test_where_none_is_whole_it_is_said(stopped: Path) -> None:
    for name in ("last", "previous"):
        cut(stopped / "checkpoints" / f"{name}.ckpt")
    with pytest.raises(CheckpointError, match="^Neither .*last.ckpt nor previous.ckpt .* resume=never.$"):
        resume(stopped)


def test_a_full_disk_leaves_what_was_there(stopped: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {file.name: file.read_bytes() for file in (stopped / "checkpoints").iterdir()}
    with monkeypatch.context() as disk:
        disk.setattr(checkpoint_io, "write_tensors", full)
        with pytest.raises(DiskError, match="cannot be written .No space left"):
            resume(stopped)
    assert {file.name: file.read_bytes() for file in (stopped / "checkpoints").iterdir()} == before
    resume(stopped)
    assert_same_training(last(stopped), last(whole))


@pytest.mark.parametrize("links", [True, False])
def test_at_each_moment_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*paths: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    io = checkpoint_io.WholeCheckpoints()
    for epoch in range(3):
        io.save_checkpoint({"epoch": epoch}, tmp_path / "last.ckpt")
    kept = {file.name: torch.load(file, weights_only=True)["epoch"] for file in tmp_path.iterdir()}
    assert kept == {"last.ckpt": 2, "previous.ckpt": 1}
    (tmp_path / "last.ckpt").unlink()
    checkpoint_io.restore_last(tmp_path / "previous.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


def test_an_earlier_training_in_the_folder_is_not_taken_for_this_one(stopped: Path) -> None:
    train(stopped, "method.max_iters=2", "test=false", "resume=never")
    assert sorted(file.name for file in (stopped / "checkpoints" / "earlier").iterdir()) == [
        "last.ckpt",
        "previous.ckpt",
        "selected_entropy.ckpt",
    ]
    assert not (stopped / "checkpoints" / "previous.ckpt").exists()


# -- what it was -------------------------------------------------------------------------------------------------------

CHANGES = {
    "seed": ("seed=1", "seed was 0 and is 1"),
    "source": ("data.source.count=9", "the source was 8 samples (.*) and is 9 samples"),
    "target": ("data.target.size=[48,64]", r"the target was 6 samples .*\[32, 48\].* and is 6 samples .*\[48, 64\]"),
    "batch_size": ("data.batch_size=3", "data.batch_size was 2 and is 3"),
    "devices": ("trainer.devices=2", "devices was 1 and is 2"),
    "epoch_length": ("data.iterations_per_epoch=4", "iterations of an epoch were 2 and are 4"),
    "accumulate": ("method.accumulate=2", "accumulate was 1 and is 2"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_with_both_values(stopped: Path, tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    before = sorted(stopped.rglob("*"))
    with pytest.raises(CheckpointError, match=rf"{words}.*accept_changes=\[{name}\].* resume=never") as caught:
        resume(stopped, change)
    assert "\n" not in str(caught.value) and sorted(stopped.rglob("*")) == before
    with pytest.raises(CheckpointError, match=rf"{words}.*accept_changes=\[{name}\].* method.init_from="):
        train(tmp_path / "new", f"ckpt_path={last(stopped)}", change)
    assert not (tmp_path / "new").exists()


def test_changes_that_are_named_are_accepted(stopped: Path) -> None:
    resume(stopped, "seed=1", "data.source.count=9", "data.batch_size=3", "accept_changes=[seed,source,batch_size]")
    assert json.loads((stopped / "metrics.json").read_text())["iterations"] == 6
    recorded = torch.load(last(stopped), weights_only=True)["run"]
    assert (recorded["seed"], recorded["batch_size"], recorded["source"]["samples"]) == (1, [3, 3], 9)


def test_an_epoch_length_that_follows_from_an_accepted_change_needs_no_name(tmp_path: Path) -> None:
    train(tmp_path, "data.iterations_per_epoch=null", "method.max_iters=2", "test=false")
    (tmp_path / "metrics.json").unlink()
    options = ("data.iterations_per_epoch=null", "data.batch_size=4", "test=false", "resume=auto")
    with pytest.raises(CheckpointError, match=r"accept_changes=\[batch_size\]"):
        train(tmp_path, *options)
    train(tmp_path, *options, "accept_changes=batch_size")


def test_checkpoints_without_a_record_are_taken_as_they_are(stopped: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = torch.load(last(stopped), weights_only=True)
    del content["run"]
    torch.save(content, last(stopped))
    with caplog.at_level(logging.INFO):
        resume(stopped, "seed=1", "test=false")
    assert "does not record what its run was" in caplog.text


def test_another_method_and_a_shorter_training_are_refused(stopped: Path, tmp_path: Path) -> None:
    cbst = tmp_path / "cbst"
    train(cbst, "method.max_iters=4", "test=false", method="cbst")
    for method, name, words in (
        (METHOD, None, "CBST.*SourceOnly"),
        ("self_training", None, "the method was cbst and is self_training"),
    ):
        with pytest.raises(CheckpointError, match=words):
            train(tmp_path / "new", f"ckpt_path={last(cbst)}", method=method, name=name)
    with pytest.raises(CheckpointError, match=r"\b4 iterations.*method\.max_iters=3\b.*\b4\b"):
        resume(stopped, "method.max_iters=3")


def test_unknown_names_are_refused_and_a_finished_run_may_grow(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accept_changes.*sead.* seed, source, target, batch_size, devices"):
        train(tmp_path, "accept_changes=[sead]")
    folder = Path(shutil.copytree(whole, tmp_path / "grown"))
    resume(folder, "method.max_iters=8", "test=false")
    assert json.loads((folder / "metrics.json").read_text())["iterations"] == 8


# -- what is tested ----------------------------------------------------------------------------------------------------


def test_no_checkpoint_that_lies_there_is_tested_or_resumed(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "1", "JOB_NAME": "job", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert SLURMEnvironment.detect()
    content = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    for value in content["state_dict"].values():
        value.zero_()
    (tmp_path / "checkpoints").mkdir()
    for name in ("hpc_ckpt_1", "checkpoints/last-v1", "checkpoints/selected_entropy", "checkpoints/source_only"):
        torch.save(content, tmp_path / f"{name}.ckpt")
    train(tmp_path, "method.horizon=6", selection="entropy")
    assert scores(tmp_path) == scores(whole)
    assert_same_training(last(tmp_path), last(whole))


def test_lightning_neither_requeues_nor_looks_for_checkpoints(tmp_path: Path) -> None:
    import lightning.pytorch as L
    from lightning.pytorch.callbacks import OnExceptionCheckpoint

    trainer = L.Trainer(
        default_root_dir=tmp_path,
        plugins=[SLURMEnvironment(auto_requeue=True)],
        accelerator="cpu",
        callbacks=OnExceptionCheckpoint(tmp_path),
        logger=False,
    )
    checkpoint_io.take_charge_of_checkpoints(trainer)
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
    assert trainer._checkpoint_connector._parse_ckpt_path(None, None, True, True) is None


def test_words_that_lightning_would_interpret_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("hpc", "last", "best", "registry:x", "https://example.org/x.ckpt"):
        with pytest.raises(CheckpointError, match="no file there"):
            train(tmp_path / "run", f"ckpt_path={word}")
    with pytest.raises(CheckpointError, match="is a folder: give a checkpoint in it"):
        train(tmp_path / "run", f"ckpt_path={tmp_path}")


@pytest.mark.parametrize("damage", [cut, lambda file: torch.save({"state_dict": {}}, file)])
def test_weights_to_be_tested_are_looked_at_before_the_training_continues(stopped: Path, damage: Any) -> None:
    best = stopped / "checkpoints" / "selected_entropy.ckpt"
    shutil.copy(best, source_only := best.with_name("source_only.ckpt"))
    damage(source_only)
    with pytest.raises(CheckpointError, match=r"source_only\.ckpt.*remove it"):
        resume(stopped)
    source_only.unlink()
    damage(best)
    with pytest.raises(CheckpointError, match=r"selected_entropy\.ckpt.*resume=never"):
        resume(stopped)


# -- strangers' files --------------------------------------------------------------------------------------------------


def test_no_default_of_torch_opens_a_file_that_runs_code(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    mark = tmp_path / "sprung"
    bomb = {"state_dict": Bomb(mark)}
    torch.save(bomb, stopped / "checkpoints" / "source_only.ckpt")
    with pytest.raises(CheckpointError, match=r"source_only\.ckpt\b"):
        resume(stopped)
    torch.save(bomb, tmp_path / "bomb.ckpt")
    content = torch.load(last(stopped), weights_only=True)
    for state in content["callbacks"].values():
        state |= {key: str(tmp_path / "bomb.ckpt") for key in state if key.endswith("path")}
    torch.save(content, last(stopped))
    (stopped / "checkpoints" / "source_only.ckpt").unlink()
    with pytest.raises(CheckpointError, match="bomb.ckpt"):  # in the run's own folder, where there is none
        resume(stopped, "method.max_iters=4")
    assert not mark.exists()
    (tmp_path / "checkpoints").mkdir()
    torch.save(content | {"hyper_parameters": Bomb(mark)}, last(tmp_path))
    from da_lightning.segmentation.source_only import SourceOnly

    with pytest.raises(Exception, match="[Ww]eights"):
        SourceOnly.load_from_checkpoint(last(tmp_path), weights_only=False)
    assert not mark.exists()


def without(*keys: str) -> Any:
    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            del content[key]

    return edit


ODD = {
    "no version": (without("pytorch-lightning_version"), "does not fit this training .KeyError"),
    "no optimisers": (lambda content: content["optimizer_states"].clear(), "it has 0 optimisers and this training 1"),
    "no loops": (lambda content: content["loops"].clear(), "holds weights at most"),
    "no weights": (lambda content: content["state_dict"].clear(), "another method or network"),
    "a loop that is none": (
        lambda content: content["loops"].update(fit_loop={"epoch_loop.batch_progress": 3}),
        "weights",
    ),
    "no schedules": (without("lr_schedulers"), "holds weights at most"),
    "a record of tensors": (lambda content: content["run"].update(seed=torch.ones(2)), "seed was tensor"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_no_run_of_ours_wrote_is_refused_in_a_sentence(stopped: Path, odd: str) -> None:
    edit, words = ODD[odd]
    content = torch.load(last(stopped), weights_only=True)
    edit(content)
    torch.save(content, last(stopped))
    with pytest.raises(CheckpointError, match=words) as caught:
        resume(stopped, "test=false")
    assert "\n" not in str(caught.value) and str(last(stopped)) in str(caught.value)


def test_paths_in_a_checkpoint_are_kept_to_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "moved"
    (run / "checkpoints").mkdir(parents=True)
    (run / "pseudo_labels" / "round_1").mkdir(parents=True)
    old, here = "/old/outputs/cbst/1", str(run)
    content: dict[str, Any] = {
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val/selection/snd'}": {
                "monitor": "val/selection/snd",
                "dirpath": f"{old}/checkpoints",
                "best_model_path": f"{old}/checkpoints/last.ckpt",
                "best_k_models": {f"{old}/checkpoints/a.ckpt": torch.tensor(1.0)},
                "kth_best_model_path": "",
            },
            "SelfTraining": {"folder": f"{old}/pseudo_labels/round_1", "round": 1, "tau": [0.5]},
        }
    }
    checkpoint_io.keep_to_own_folder(content, last(run))
    model, rounds = content["callbacks"].values()
    assert model == {
        "monitor": "val/selection/snd",
        "dirpath": f"{here}/checkpoints",
        "best_model_path": f"{here}/checkpoints/last.ckpt",
        "best_k_models": {f"{here}/checkpoints/a.ckpt": torch.tensor(1.0)},
        "kth_best_model_path": "",
    }
    assert rounds["folder"] == f"{here}/pseudo_labels/round_1" and not caplog.text
    for path in ("/etc/passwd", "../../../etc/passwd", f"{here}/../../x", "s3://bucket/x", "/" + "x" * 5000, "\0/x"):
        strange = {
            "callbacks": {"Any": {"best_model_path": path, "nested": [{"file": path}]}},
            "Data": {"x_path": path},
        }
        checkpoint_io.keep_to_own_folder(strange, last(run))
        for state in (strange["callbacks"]["Any"], strange["Data"]):
            found = state.get("best_model_path") or state["x_path"]
            assert Path(os.path.normpath(found)).is_relative_to(run)
        assert "outside its run's folder: not followed" in caplog.text
        caplog.clear()


def test_a_plugin_that_wraps_writes_through_ours_and_another_is_refused() -> None:
    from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO

    io = checkpoint_io.WholeCheckpoints()
    assert checkpoint_io.with_own_io(None, io) == [io]
    outer = AsyncCheckpointIO()
    assert checkpoint_io.with_own_io([outer], io) == [outer] and outer.checkpoint_io is io
    with pytest.raises(UserError, match=r"trainer\.plugins\b.*TorchCheckpointIO"):
        checkpoint_io.with_own_io([TorchCheckpointIO()], io)
