"""Rounds of self-training that follow other methods: AdaptSegNet's, and one that this package does not know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import assert_same, assert_same_training, built, command, composed, run_folders, succeeded, tiny, trainer
from torch import nn

from da_lightning.config.build import build
from da_lightning.errors import CheckpointError, UserError
from da_lightning.predict import load_method
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.self_training import SelfTraining
from da_lightning.session import train_and_test
from da_lightning.training.checkpoints import check_resumable
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Batch, Group, Player, Step, Term, Updates

pytestmark = pytest.mark.slow

ITERS, PER_ROUND = 4, 4  # two epochs each
LENGTHS = (f"method.max_iters={ITERS}", "method.source_iters=0", "data.crop_size=[32,32]", "data.flip=true")
ROUND = {"portion": 0.3, "mining_chance": 0.8, "spatial_prior": True, "source_share": 0.5, "round_lr_factor": 0.25}


def rounds(count: int = 1, **options: Any) -> SelfTraining:
    return SelfTraining(count, PER_ROUND, **{**ROUND, **options})


def labels_in(run: Path, round_: int) -> dict[str, bytes]:
    found = {file.name: file.read_bytes() for file in (run / "pseudo_labels" / f"round_{round_}").glob("*.png")}
    assert len(found) == 6
    return found


def with_epochs_from(data: L.LightningDataModule, first: int) -> L.LightningDataModule:
    """Let the samplers of ``data`` draw as if its first epoch were number ``first``."""
    make: Callable = data.training_sampler

    def later(*arguments: Any) -> Any:
        sampler = make(*arguments)
        set_epoch = sampler.set_epoch
        sampler.set_epoch = lambda epoch: set_epoch(epoch + first)
        sampler.set_epoch(0)
        return sampler

    data.training_sampler = later
    return data


@pytest.mark.parametrize("target_statistics", ["false", "true"])
def test_after_adaptsegnet_they_are_those_of_cbst_from_its_checkpoint(target_statistics: str, tmp_path: Path) -> None:
    """The thresholds, the labels, and the weights after the round, where the samplers count epochs on.

    The step is reseeded by the iteration, too, but a round draws nothing in it.
    """
    options = (*LENGTHS, f"method.target_statistics={target_statistics}")
    trainer(tmp_path / "first").fit(*built("adaptsegnet", *options))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"

    joined, followed = trainer(tmp_path / "joined", rounds()), trainer(tmp_path / "followed")
    module, data = built("adaptsegnet", *options)
    joined.fit(module, data)
    assert module.iterations_done == module.total_iters == ITERS + PER_ROUND

    lengths = ("method.source_iters=0", "method.rounds=1", f"method.iters_per_round={PER_ROUND}")
    chosen = [f"method.{name}={str(value).lower()}" for name, value in ROUND.items()]
    own = (*options[2:], "method.max_iters=null", "method.network.multi_level=true", f"method.init_from={first}")
    cbst, data = built("cbst", *lengths, *chosen, *own)
    followed.fit(cbst, with_epochs_from(data, ITERS // 2))

    one, other = (next(c for c in t.callbacks if isinstance(c, SelfTraining)) for t in (joined, followed))
    assert one.round == other.round == 1 and any(0 < tau < 1 for tau in one.tau)
    assert (one.tau, one.counts) == (other.tau, other.counts)
    assert labels_in(tmp_path / "joined", 1) == labels_in(tmp_path / "followed", 1)
    assert_same(module.network.state_dict(), cbst.network.state_dict())


def test_the_method_trains_as_usual_first_and_its_other_players_rest_then(tmp_path: Path) -> None:
    trainer(tmp_path / "alone").fit(*built("adaptsegnet", *LENGTHS))
    module, data = built("adaptsegnet", *LENGTHS)
    trainer(tmp_path / "joined", rounds(2)).fit(module, data)
    alone, before, after = (
        torch.load(tmp_path / name, weights_only=True)
        for name in ("alone/checkpoints/last.ckpt", "joined/checkpoints/epoch=1.ckpt", "joined/checkpoints/last.ckpt")
    )
    assert_same(alone["state_dict"], before["state_dict"])
    assert not any(optimizer["state"] for optimizer in before["optimizer_states"])
    for name, value in after["state_dict"].items():
        is_trained = name.startswith("network.") and name.endswith(".weight")
        assert torch.equal(value, before["state_dict"][name]) != is_trained or not is_trained, name
    lr = [group["lr"] for group in after["optimizer_states"][0]["param_groups"]]
    assert lr[0] == pytest.approx(module.optimizer_options["lr"] * 0.25 * 0.5)  # of the next round


@pytest.mark.parametrize("epoch", [0, 1, 2, 3, 4])
def test_resumed_at_any_epochs_end_it_goes_on_bit_for_bit(
    epoch: int, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trainer(tmp_path / "whole", rounds(2)).fit(*built("adaptsegnet", *LENGTHS))
    checkpoint = tmp_path / "whole" / "checkpoints" / f"epoch={epoch}.ckpt"
    module, data = built("adaptsegnet", *LENGTHS, seed=1)
    trainer(tmp_path / "moved", rounds(2)).fit(module, data, ckpt_path=checkpoint, weights_only=True)
    assert_same_training(*(tmp_path / name / "checkpoints" / "epoch=5.ckpt" for name in ("whole", "moved")))
    assert labels_in(tmp_path / "whole", 2) == labels_in(tmp_path / "moved", 2)


def test_a_training_that_had_ended_gets_rounds_and_then_more(tmp_path: Path) -> None:
    trainer(tmp_path / "whole", rounds(2)).fit(*built("adaptsegnet", *LENGTHS))
    trainer(tmp_path / "none").fit(*built("adaptsegnet", *LENGTHS))
    last = tmp_path / "none" / "checkpoints" / "last.ckpt"
    for count in (1, 2):
        run = tmp_path / str(count)
        trainer(run, rounds(count)).fit(*built("adaptsegnet", *LENGTHS), ckpt_path=last, weights_only=True)
        last = run / "checkpoints" / "last.ckpt"
    assert_same_training(last, tmp_path / "whole" / "checkpoints" / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"round 2 of rounds that began after 4 .*give method\.max_iters=4, or"):
        module, data = built("adaptsegnet", *LENGTHS, "method.max_iters=6")
        trainer(tmp_path / "longer", rounds(2)).fit(module, data, ckpt_path=last, weights_only=True)


class Critical(SegmentationModule):
    """A stranger's: a critic beside the network, names of its own, and a schedule of torch's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.critic = nn.Conv2d(len(self.classes), 1, 1)

    def players(self) -> dict[str, Player]:
        schedule = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5}
        critic, network = list(self.critic.parameters()), list(self.network.parameters())
        return {
            "critic": Player([Group(critic)], {"name": "Adam", "lr": 0.01}, schedule=schedule),
            "pixels": Player([Group(network)], {"name": "Adam", "lr": 0.01}, schedule=schedule),
        }

    def updates(self, batch: Batch) -> Updates:
        levels = self.network(batch["source"]["image"])
        yield Backward("pixels", self.supervised(levels, batch["source"]["label"]))
        yield Step("pixels")
        yield Backward("critic", {"score": Term(self.critic(levels[0].logits.detach()).square().mean())})
        yield Step("critic")


def test_a_method_of_ones_own_gets_them_too(tmp_path: Path) -> None:
    node = composed("method=segmentation_source_only", *tiny("segmentation_source_only")).method
    options = {name: node[name] for name in ("classes", "network")}
    module = Critical(**options, optimizer={"name": "Adam", "lr": 0.01}, max_iters=ITERS)
    seen: list[tuple[float, float]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert ("pseudo_label" in batch["target"]) == (pl_module.iteration >= ITERS)
            seen.append((trainer.optimizers[1].param_groups[0]["lr"], pl_module.critic.weight.sum().item()))

    trainer(tmp_path, rounds(2, round_lr_decay=0.5), Watch()).fit(module, built("adaptsegnet")[1])
    rates, critics = zip(*seen, strict=True)
    factors = [1, 0.5, 0.25, 0.125, *[0.25] * PER_ROUND, *[0.125] * PER_ROUND]
    assert rates == pytest.approx([0.01 * factor for factor in factors])
    assert len(set(critics[: ITERS + 1])) == ITERS + 1 and len(set(critics[ITERS:])) == 1


@pytest.mark.usefixtures("_settings_restored")
def test_one_option_adds_them(tmp_path: Path) -> None:
    length = ["callbacks.self_training.rounds=2", "callbacks.self_training.iters_per_round=2", "method.max_iters=4"]
    options = ["method=adaptsegnet", *tiny("adaptsegnet"), "callbacks=self_training", *length]

    def run(*more: str) -> dict[str, Any]:
        train_and_test(composed(*options, *more), tmp_path, "adaptsegnet", "toy_streets")
        return json.loads((tmp_path / "metrics.json").read_text())

    assert run()["iterations"] == 8
    assert {"target/miou", "source_only/target/miou"} <= run("resume=auto")["test"].keys()
    assert run("resume=auto", "callbacks.self_training.rounds=3")["iterations"] == 10
    assert (tmp_path / "pseudo_labels" / "round_3").is_dir()
    with pytest.raises(CheckpointError, match=r"method\.max_iters=4 and 2 in rounds after them: give 10 or more"):
        run("ckpt_path=" + str(tmp_path / "checkpoints" / "last.ckpt"), "callbacks.self_training.rounds=1")


def test_checkpoints_of_the_former_class_are_refused_in_a_sentence(tmp_path: Path) -> None:
    trainer(tmp_path).fit(*built("cbst"))
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["method"] = "da_lightning.segmentation.self_training.SelfTrainedSegmenter"
    torch.save(content, last)
    message = "earlier version of da_lightning, whose SelfTrainedSegmenter is CBST now: use that version, or"
    with pytest.raises(CheckpointError, match=message):
        load_method(last)
    with pytest.raises(CheckpointError, match=message):
        check_resumable(last, content, built("cbst")[0], is_averaged=False)


def joining(method: str, *options: str, **given: Any) -> Callable[[], None]:
    def join() -> None:
        module, data = built(method, *options)
        rounds(**given).join(module, data)

    return join


@pytest.mark.parametrize(
    ("join", "message"),
    [
        (joining("unit"), "labels pixels, and UNIT segments nothing"),
        (joining("cbst"), "CBST has rounds of its own: leave out callbacks.self_training, and set method.rounds"),
        (
            joining("adaptsegnet", "data.target_image_size=[24,48]"),
            "are 32x48 and 24x48: set data.crop_size",
        ),
        (joining("adaptsegnet", portion=0), r"^callbacks\.self_training\.portion=0 is not a share"),
        (joining("adaptsegnet", portion_step=-0.4, count=2), r"^callbacks\.self_training\.portion_step=-0\.4 makes a "),
    ],
)
def test_what_cannot_work_is_told(join: Callable[[], None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        join()


def test_epochs_end_where_rounds_begin() -> None:
    for epoch, expected in (("null", 2), ("2", 2), ("4", None)):
        module, data = built("adaptsegnet", "method.max_iters=6", f"data.iterations_per_epoch={epoch}")
        rounds().join(module, data)
        if expected is None:
            with pytest.raises(UserError, match=r"must divide method\.max_iters=6 and callbacks\.self_training\.iters"):
                module.fit_epochs(data)
        else:
            module.fit_epochs(data)
            assert data.iterations_per_epoch == expected


def test_the_yaml_gives_every_option() -> None:
    node = composed("callbacks=self_training").callbacks.self_training
    made = build(node, "callbacks.self_training")
    own = composed("method=cbst").method
    shared = [name for name in node if name != "_target_"]
    assert {name: node[name] for name in shared} == {name: own[name] for name in shared}
    assert isinstance(made, SelfTraining) and isinstance(built("adaptsegnet")[0], AdaptationModule)


def test_two_devices_label_and_train_as_one_run(tmp_path: Path) -> None:
    lengths = ["callbacks.self_training.rounds=1", "callbacks.self_training.iters_per_round=2"]
    observed = ["trainer.devices=2", "+callbacks.checksum={_target_: tiny_runs.WriteChecksum}"]
    options = [*tiny("adaptsegnet"), "callbacks=self_training", *lengths, "method.target_statistics=true"]
    succeeded(command(["method=adaptsegnet", *options, "method.max_iters=2", *observed], tmp_path))
    (run,) = run_folders(tmp_path)
    one, other = (json.loads((run / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert one == other and len(labels_in(run, 1)) == 6
    assert json.loads((run / "metrics.json").read_text())["iterations"] == 4
