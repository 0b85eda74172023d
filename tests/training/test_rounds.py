"""Self-training: when pseudo labels reach the loader's workers, and runs that are killed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import assert_same_training, built, command, composed, run_folders, succeeded, tiny, trainer
from torchvision.io import ImageReadMode, decode_image

from da_lightning.config.build import build
from da_lightning.errors import UserError

pytestmark = pytest.mark.slow


WORKERS = "data.num_workers=2"  # of the killed runs alone: the samples do not depend on it


class Watch(L.Callback):
    """Notes what comes out of the loaders, and whether the optimiser remembers anything."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.is_fresh: list[bool] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)
        self.is_fresh.append(not trainer.optimizers[0].state)


@pytest.mark.parametrize("source_iters", [0, 2])
def test_a_rounds_labels_reach_the_workers_from_its_first_batch_on(source_iters: int, tmp_path: Path) -> None:
    options = ["data.num_workers=1", "data.flip=false", f"method.source_iters={source_iters}"]
    module, data = built("cbst", *options, "method.source_share=0.25", "method.source_share_step=0.25")
    watch = Watch()
    trainer(tmp_path, watch).fit(module, data)
    assert len(watch.batches) == source_iters + 4
    for iteration, batch in enumerate(watch.batches):
        round_ = max(0, (iteration - source_iters) // 2 + 1)
        assert set(batch["target"]) == {"image", "index"} | ({"pseudo_label"} if round_ else set())
        assert watch.is_fresh[iteration] == (iteration == 0 or (round_ > 0 and (iteration - source_iters) % 2 == 0))
        if round_:
            for index, label in zip(batch["target"]["index"].tolist(), batch["target"]["pseudo_label"], strict=True):
                name = data.target_view.dataset.name(index)
                file = tmp_path / "pseudo_labels" / f"round_{round_}" / f"{name}.png"
                assert torch.equal(label, decode_image(str(file), ImageReadMode.UNCHANGED)[0].long())

    rounds = [
        {file.name: decode_image(str(file)) for file in (tmp_path / "pseudo_labels" / f"round_{r}").glob("*.png")}
        for r in (1, 2)
    ]
    assert len(rounds[0]) == len(rounds[1]) == 6
    labelled = [sum(int((label != 255).sum()) for label in labels.values()) for labels in rounds]
    assert 0 < labelled[0] < labelled[1]  # the portion grows

    drawn = [
        {index for batch in watch.batches[start:][:2] for index in batch["source"]["index"].tolist()}
        for start in (source_iters, source_iters + 2)
    ]
    assert len(drawn[0]) <= 2  # a quarter of eight source images, then half
    assert len(drawn[1]) <= 4


@pytest.mark.parametrize("option", ["portion", "max_portion", "source_share", "max_source_share"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_a_share_out_of_range_is_named(option: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^method\.{option}={value}"):
        built("cbst", f"method.{option}={value}")


def test_settings_that_would_be_cut_or_do_harm_are_refused() -> None:
    with pytest.raises(UserError, match=r"^method\.portion=0\.8\b.*method\.max_portion=0\.5"):
        built("cbst", "method.portion=0.8", "method.max_portion=0.5")
    with pytest.raises(UserError, match=r"batch norm is frozen"):
        frozen = ["network@method.network=deeplab_resnet18", "method.network.bn_stats=frozen"]
        build(composed("method=cbst", *frozen, "method.network.pretrained=null").method, "method")


def test_images_that_make_no_joint_batch_are_told_before_training(tmp_path: Path) -> None:
    module, data = built("cbst", "data.target_image_size=[24,48]")
    with pytest.raises(UserError, match=r"24x48.*data\.crop_size"):
        trainer(tmp_path).fit(module, data)


def test_short_epochs_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lengths = ["method.source_iters=11", "method.iters_per_round=12", "method.max_iters=1"]
    module, data = built("cbst", *lengths, "data.iterations_per_epoch=null")
    trainer(tmp_path).fit(module, data)
    assert "An epoch is 1 iterations" in caplog.text


def test_labels_of_the_checkpoints_own_run_are_those_used(tmp_path: Path) -> None:
    lengths = [
        "method.source_iters=0",
        "method.iters_per_round=4",
        "method.max_iters=null",
        "data.iterations_per_epoch=2",
    ]
    module, data = built("cbst", *lengths)
    trainer(tmp_path / "own").fit(module, data)
    stale = tmp_path / "other" / "pseudo_labels" / "round_1"
    shutil.copytree(tmp_path / "own" / "pseudo_labels" / "round_2", stale)
    module, data = built("cbst", *lengths)
    checkpoint = tmp_path / "own" / "checkpoints" / "epoch=0.ckpt"
    trainer(tmp_path / "other").fit(module, data, ckpt_path=checkpoint, weights_only=True)
    for file in stale.glob("*.png"):
        assert file.read_bytes() == (tmp_path / "own" / "pseudo_labels" / "round_1" / file.name).read_bytes()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_level_that_the_network_has_not_is_told(tmp_path: Path) -> None:
    module, data = built("adaptsegnet", "method.network.multi_level=false")
    with pytest.raises(UserError, match=r"method\.levels=2\b"):
        trainer(tmp_path).fit(module, data)


def test_epochs_must_end_where_rounds_do(tmp_path: Path) -> None:
    module, data = built("cbst", "method.iters_per_round=4", "data.iterations_per_epoch=3")
    with pytest.raises(UserError, match=r"data\.iterations_per_epoch=3\b.*\b2\.$"):
        trainer(tmp_path).fit(module, data)


def test_a_run_killed_while_labelling_and_inside_a_round_ends_as_if_undisturbed(tmp_path: Path) -> None:
    lengths = ["method.iters_per_round=4", "method.max_iters=null"]  # two epochs a round, ten iterations
    options = ["method=cbst", *tiny("cbst"), *lengths, "+callbacks.kill={_target_: tiny_runs.Kill}"]

    def killed(when: str, *more: str) -> None:
        run = command([*options, WORKERS, *more], tmp_path / "killed", KILL=when)
        assert run.returncode == -9, run.stderr

    def chain() -> None:
        killed("label 9")  # the third of round 2; the last checkpoint is from inside round 1
        (folder,) = run_folders(tmp_path / "killed")
        assert (folder / "pseudo_labels" / "round_2.partial").is_dir()
        assert not (folder / "pseudo_labels" / "round_2").exists()
        killed("iteration 8", "resume=auto")  # inside round 2, after an epoch of it
        shutil.copytree(tmp_path / "killed", tmp_path / "kept")
        succeeded(command([*options, WORKERS, "resume=auto"], tmp_path / "killed"))

    with ThreadPoolExecutor(2) as pool:
        interrupted = pool.submit(chain)
        succeeded(command(options, tmp_path / "whole"))
        interrupted.result()
    (old,) = run_folders(tmp_path / "kept")
    succeeded(command([*options, f"ckpt_path={old}/checkpoints/last.ckpt"], tmp_path / "moved"))

    ((whole,), (resumed,), (moved,)) = (run_folders(tmp_path / name) for name in ("whole", "killed", "moved"))
    for folder in (resumed, moved):
        assert_same_training(folder / "checkpoints" / "last.ckpt", whole / "checkpoints" / "last.ckpt")
        labels = sorted(file.name for file in (folder / "pseudo_labels" / "round_2").iterdir())
        assert labels == sorted(file.name for file in (whole / "pseudo_labels" / "round_2").iterdir())
        assert not list(folder.glob("pseudo_labels/*.partial"))
    scores = [json.loads((folder / "metrics.json").read_text())["test"] for folder in (whole, resumed, moved)]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("option", ["portion_step=-0.2", "source_share_step=-1.0"])
def test_a_schedule_that_ends_below_0_is_told_before_it_begins(option: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{option}\b.*\b2 rounds"):
        built("cbst", f"method.{option}")


def test_of_a_schedule_only_rounds_that_begin_are_looked_at() -> None:
    built("cbst", "method.portion_step=-0.2", "method.max_iters=4")


def test_rounds_that_never_begin_are_told(caplog: pytest.LogCaptureFixture) -> None:
    built("cbst", "method.max_iters=2")
    assert all(word in caplog.text for word in ("method.source_iters=2", "method.max_iters=2"))
