"""ECN: its loss, its schedules, what its checkpoints hold."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import torch.distributed as dist
from tiny_runs import assert_same, assert_same_training, backwards, command, run_folders, succeeded, tiny, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from da_lightning.errors import CheckpointError, UserError
from da_lightning.predict import load_method
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.datasets import ToyPeople
from da_lightning.reid.ecn import ECN
from da_lightning.reid.exemplar_memory import ExemplarMemory

SIZE = 8  # of the embedding
LIGHT = {"_target_": "da_lightning.reid.networks.LightBackbone", "width": 8}
RESNET = {"_target_": "da_lightning.reid.networks.ResNetBackbone", "model": "resnet18"}


def a_method(data: PersonDataModule | None = None, **options: Any) -> ECN:
    known = (data or some_data()).facts.options(ECN, options)
    torch.manual_seed(0)
    options = {
        "backbone": LIGHT,
        "max_iters": 6,
        "embedding_size": SIZE,
        **known,
        **options,
    }
    return ECN(optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True}, neighbours=3, **options)


def some_data(persons: int = 3, **options: Any) -> PersonDataModule:
    """Two batches an epoch; of the target fewer images than that are seen in the first."""
    people = {"persons": persons, "cameras": 2, "images_per_camera": 2, "size": (32, 16)}
    return PersonDataModule(
        source=ToyPeople("street", **people),
        target=ToyPeople("station", labelled=False, **people),
        image_size=(32, 16),
        batch_size=4,
        iterations_per_epoch=2,
        **options,
    )


class Asked(L.Callback):
    """Keeps what the memory is asked for: whether with neighbourhoods, and alpha."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.neighbourhoods: list[bool] = []
        self.alphas: list[float] = []
        memory, (loss, update) = pl_module.memory, (pl_module.memory.loss, pl_module.memory.update)

        def recorded_loss(v: Tensor, index: Tensor, neighbourhood: bool) -> tuple[Tensor, Tensor]:
            self.neighbourhoods.append(neighbourhood)
            return loss(v, index, neighbourhood)

        def recorded_update(v: Tensor, index: Tensor, alpha: float) -> None:
            self.alphas.append(alpha)
            update(v, index, alpha)

        memory.loss, memory.update = recorded_loss, recorded_update


def without_cameras(data: PersonDataModule | None = None, **options: Any) -> ECN:
    return a_method(data, camera=False, neighbours_from=1, **options)


def test_schedules_go_by_epochs_and_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, asked = without_cameras(), Asked()
    trainer(tmp_path / "whole", asked).fit(whole, some_data())
    assert asked.neighbourhoods == [False, False, True, True, True, True]
    assert asked.alphas == pytest.approx([0, 0, 0.01, 0.01, 0.02, 0.02])
    bank = whole.memory.bank
    assert bank.shape == (12, SIZE)
    seen = bank.any(1)
    torch.testing.assert_close(bank.norm(dim=1), seen.float())

    first, last = (tmp_path / "whole" / "checkpoints" / f"epoch={epoch}.ckpt" for epoch in (0, 2))
    seen_first = torch.load(first, weights_only=True)["state_dict"]["memory.bank"].any(1)
    assert 0 < seen_first.sum() <= 8 < seen.sum()
    resumed = without_cameras()
    trainer(tmp_path / "resumed", asked).fit(resumed, some_data(), ckpt_path=first, weights_only=True)
    assert asked.neighbourhoods == [True] * 4
    assert asked.alphas == pytest.approx([0.01, 0.01, 0.02, 0.02])
    assert torch.equal(resumed.memory.bank, bank)
    assert_same_training(tmp_path / "resumed" / "checkpoints" / last.name, last)

    rebuilt = ECN.load_from_checkpoint(last)
    assert_same(dict(rebuilt.state_dict()), dict(whole.state_dict()))


def test_another_target_list_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).fit(without_cameras(), some_data())
    data = some_data()
    data.target_view.dataset.items.reverse()
    with pytest.raises(CheckpointError, match="another list of target images"):
        checkpoint = tmp_path / "checkpoints" / "epoch=0.ckpt"
        trainer(tmp_path / "other").fit(without_cameras(data), data, ckpt_path=checkpoint, weights_only=True)


def test_weights_to_begin_with_bring_their_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    earlier = without_cameras()
    fit = trainer(tmp_path)
    fit.fit(earlier, some_data())
    for persons, size in ((3, 12), (4, 16)):
        path = str(tmp_path / "checkpoints" / "last.ckpt")
        method = a_method(some_data(persons), camera=False, init_from=path)
        if size == 12:
            assert_same(dict(method.state_dict()), dict(earlier.state_dict()))
        assert len(method.memory.bank) == size
        assert method.memory.bank.any() == (size == 12)
        assert ("begins empty" in caplog.text) == (size != 12)


def test_a_memory_of_other_images_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit = trainer(tmp_path)
    fit.fit(without_cameras(), some_data())
    data = some_data()
    data.target_view.dataset.items.reverse()
    method = a_method(data, camera=False, init_from=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert not method.memory.bank.any() and "the one given is of other images" in caplog.text


def test_a_checkpoint_without_the_targets_size_is_of_another_version(tmp_path: Path) -> None:
    method = without_cameras()
    options = {name: value for name, value in method.hparams.items() if name != "target_size"}
    content = {"method": "da_lightning.reid.ecn.ECN", "hyper_parameters": options, "state_dict": method.state_dict()}
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match=r"old\.ckpt .*target_size.* version"):
        load_method(tmp_path / "old.ckpt")


def test_neighbourhoods_that_never_begin_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for neighbours_from, is_told in ((2, False), (3, True)):
        caplog.clear()
        trainer(tmp_path / str(is_told)).fit(a_method(camera=False, neighbours_from=neighbours_from), some_data())
        assert ("never begins in 3 epochs" in caplog.text) == is_told


def test_an_adaptation_that_never_begins_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a_method(camera=False, source_iters=99).check_length(2)
    assert all(word in caplog.text for word in ("method.source_iters=99", "method.max_iters="))


def test_camera_invariance_needs_camera_styles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.camera_style .*method\.camera=false"):
        trainer(tmp_path).fit(a_method(), some_data())


def test_a_memory_that_would_stand_still_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method\.alpha_step=0\.5 .* 3 epochs"):
        trainer(tmp_path).fit(a_method(camera=False, alpha_step=0.5), some_data())


# -- one step, by hand -------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    image = [torch.rand(4, 3, 32, 16, generator=generator) for _ in range(2)]
    return {
        "source": {"image": image[0], "person": torch.tensor([0, 1, 2, 1])},
        "target": {"image": image[1], "index": torch.tensor([4, 2, 0, 2])},
    }


def ready(method: ECN, size: int = 6) -> ECN:
    """As in the last iteration of epoch 7 after the source, two an epoch, ``size`` target images, all seen."""
    iteration = method.source_iters + 15
    method.trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=iteration), num_training_batches=2)
    method.memory = ExemplarMemory(size, SIZE, neighbours=3)
    method.memory.bank.copy_(F.normalize(torch.randn(size, SIZE)))
    method.log = lambda *arguments, **options: None
    return method


def updates(method: ECN, batch: dict[str, dict[str, Tensor]]) -> Iterator[Any]:
    torch.manual_seed(3)
    return backwards(method, batch)


def test_the_terms_are_those_of_the_paper_and_the_memory_follows_them(batch: dict) -> None:
    method = ready(a_method(num_persons=3, dropout=0.0, source_iters=4))
    bank = method.memory.bank.clone()
    steps = updates(method, batch)
    player, terms = next(steps)
    assert player == "embedder"
    assert {name: term.weight for name, term in terms.items()} == {"identification": 0.7, "invariance": 0.3}
    assert torch.equal(method.memory.bank, bank)
    sum(term.value for term in terms.values()).backward()
    assert next(steps, None) is None

    def u(domain: str) -> Tensor:
        return method.embedding(method.backbone(batch[domain]["image"]).mean((2, 3)))

    logits = method.classifier(u("source").relu())
    v = F.normalize(u("target"))
    torch.testing.assert_close(terms["identification"].value, F.cross_entropy(logits, batch["source"]["person"]))
    index, log_p = batch["target"]["index"], (v @ bank.T / 0.05).log_softmax(1)
    target = torch.zeros_like(log_p).scatter_(1, log_p.topk(3).indices, 1 / 3)
    target[torch.arange(4), index] = 1
    torch.testing.assert_close(terms["invariance"].value, -(target * log_p).sum(1).mean())
    for feature, row in zip(v.detach(), index, strict=True):
        bank[row] = F.normalize(0.07 * bank[row] + 0.93 * feature, dim=0)
    torch.testing.assert_close(method.memory.bank, bank)


def test_until_source_iters_the_target_does_not_count(batch: dict) -> None:
    method = ready(a_method(num_persons=3, source_iters=16))
    method.trainer.fit_loop.total_batch_idx = 15
    bank = method.memory.bank.clone()
    ((player, terms),) = updates(method, batch)
    assert (player, set(terms)) == ("embedder", {"identification"})
    assert torch.equal(method.memory.bank, bank)
    method.trainer.fit_loop.total_batch_idx = 16
    ((_, terms),) = updates(method, batch)
    assert set(terms) == {"identification", "invariance"}
    rows = method.memory.bank[batch["target"]["index"]]  # in epoch 0 a feature takes the place of its row
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    assert not torch.equal(method.memory.bank, bank)


def test_each_domain_has_batch_statistics_of_its_own(batch: dict) -> None:
    method = ready(a_method(num_persons=3, dropout=0.0))
    _, terms = next(updates(method, batch))
    batch["target"]["image"] = 1 - batch["target"]["image"]
    _, others = next(updates(method, batch))
    assert torch.equal(terms["identification"].value, others["identification"].value)
    assert not torch.equal(terms["invariance"].value, others["invariance"].value)


def test_the_target_is_normalised_before_dropout_and_without_relu(batch: dict) -> None:
    method = a_method(num_persons=3)
    method.embedding.eval()
    image = batch["target"]["image"]
    torch.manual_seed(5)
    v = method.target_features(image)
    dropped = v == 0
    assert 0.2 < dropped.float().mean() < 0.8
    assert (v < 0).any()
    method.dropout = 0.0
    unit = method.target_features(image)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(v, (2 * unit).masked_fill(dropped, 0))


@pytest.mark.parametrize("frozen_norms", ["statistics", "all"])
def test_frozen_norms_stay_frozen(frozen_norms: str) -> None:
    method = a_method(
        backbone={
            **RESNET,
            "frozen_norms": frozen_norms,
        },
        num_persons=3,
    ).train()
    assert not any(m.training for m in method.backbone.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("frozen_shortcuts", [False, True])
def test_shortcuts_of_frozen_stages(frozen_shortcuts: bool) -> None:
    backbone = {**RESNET, "frozen_stages": 2}
    method = a_method(backbone=backbone, frozen_shortcuts=frozen_shortcuts, num_persons=3)
    for _ in range(2):
        norms = {n: m.training for n, m in method.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
        frozen = {name for name, training in norms.items() if not training}
        early = {name for name in norms if name.startswith(("bn1", "layer1", "layer2"))}
        assert early - frozen == (set() if frozen_shortcuts else {"layer2.0.downsample.1"})
        assert frozen <= early
        method.eval()
        assert not any(module.training for module in method.modules())
        method.train()


def test_ddp_sends_no_memory(tmp_path: Path) -> None:
    method = ready(a_method(num_persons=3))
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sent = {id(buffer) for buffer in DistributedDataParallel(method).modules_buffers}
    finally:
        dist.destroy_process_group()
    names = {name for name, buffer in method.named_buffers() if id(buffer) in sent}
    assert names == {name for name, _ in method.named_buffers()} - {"memory.bank"}


@pytest.mark.slow
def test_a_sharded_memory_learns_what_a_whole_one_does_and_goes_on(tmp_path: Path) -> None:
    """Under averaged weights, whose checkpoints hold all weights twice."""
    line = ["method=ecn", *tiny("ecn"), "method.camera=false", "trainer.devices=2", "method.optimizer.name=SGD"]
    line.append("callbacks=ema")
    sharded = [*line, "method.shard_memory=true"]
    ends = []
    for name, options in (("whole", line), ("sharded", sharded)):
        succeeded(command(options, tmp_path / name))
        (run,) = run_folders(tmp_path / name)
        ends.append(run / "checkpoints" / "last.ckpt")
    whole, parted = (torch.load(file, weights_only=True)["state_dict"] for file in ends)
    assert whole["memory.bank"].any()
    torch.testing.assert_close(parted, whole, rtol=1e-3, atol=1e-4)
    # Two epochs in which the rows stay as they are but for the images seen.
    further = []
    for name, options, end in (("whole", line, ends[0]), ("sharded", sharded, ends[1])):
        folder = tmp_path / f"further_{name}"
        succeeded(command([*options, "method.max_iters=8", f"ckpt_path={end}"], folder))
        (run,) = run_folders(folder)
        further.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["memory.bank"])
    torch.testing.assert_close(*further, rtol=1e-3, atol=1e-3)
