from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from tiny_runs import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from da_lightning.errors import UserError
from da_lightning.segmentation.losses import IGNORE, pixel_cross_entropy
from da_lightning.training.callbacks import ChannelsLast
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Group, Player, Step, Term, Updates
from da_lightning.training.strategy import resolve_strategy

UNUSED = "ddp_find_unused_parameters_true"
"""Which DDP needs for a loss that misses a parameter, and we do not."""


@pytest.mark.parametrize(
    ("strategy", "accelerator", "devices", "num_nodes", "expected"),
    [
        ("auto", "cpu", 1, 1, "auto"),
        ("auto", "cpu", "1", 1, "auto"),
        ("auto", "cpu", 2, 1, "ddp"),
        ("auto", "cpu", "2", 1, "ddp"),
        ("auto", "cpu", 1, 2, "ddp"),
        ("auto", "cpu", "auto", 1, "auto"),
        ("auto", "gpu", [0], 1, "auto"),
        ("auto", "gpu", [0, 2], 1, "ddp"),
        ("auto", "gpu", "0,2", 1, "ddp"),
        ("auto", "gpu", "3,", 1, "auto"),
        ("auto", "gpu", "auto", 1, "ddp"),
        ("auto", "gpu", -1, 1, "ddp"),
        ("auto", "auto", "auto", 1, "ddp"),
        (UNUSED, "gpu", 4, 1, UNUSED),
        ("ddp", "cpu", 1, 1, "ddp"),
    ],
)
def test_strategy(strategy, accelerator, devices, num_nodes, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_strategy(strategy, accelerator, devices, num_nodes) == expected


def test_all_devices_of_a_machine_without_gpus_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_strategy("auto", "auto", "auto", 1) == "auto"


class Convolutions(AdaptationModule):
    """Each rank takes its share of a batch."""

    def __init__(self) -> None:
        super().__init__(max_iters=3)
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))

    def players(self) -> dict[str, Player]:
        return {"network": Player([Group(list(self.parameters()))], {"name": "SGD", "lr": 0.5})}

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        own = batch[self.global_rank :: self.trainer.world_size]
        yield Backward("network", {"square": Term(self.network(own).square().mean())})
        yield Step("network")


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_fork_find_unused_parameters_true"])
def test_gradients_are_means_over_ranks_in_any_layout(strategy: str, tmp_path: Path) -> None:
    batches = list(torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    alone = Convolutions()
    trainer(tmp_path / "alone").fit(alone, DataLoader(batches, batch_size=None))
    assert_close(in_two(Convolutions(), batches, tmp_path, strategy), alone)


def in_two(
    module: AdaptationModule, batches: list[Tensor], folder: Path, strategy: str = "ddp_fork"
) -> dict[str, Tensor]:
    """Weights that training in two processes ends with."""
    run = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        callbacks=[ChannelsLast()],
        use_distributed_sampler=False,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    run.fit(module, DataLoader(batches, batch_size=None))
    return torch.load(next(folder.glob("checkpoints/*.ckpt")), weights_only=True)["state_dict"]


def assert_close(weights: dict[str, Tensor], module: AdaptationModule) -> None:
    torch.testing.assert_close(weights, dict(module.state_dict()))


class Sparse(Convolutions):
    """Each rank has another share of pixels with a label."""

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        label = torch.full((4, 4, 4), IGNORE)
        label[0, :3], label[1, 0, 0] = 1, 2
        rank, ranks = self.global_rank, self.trainer.world_size
        loss = pixel_cross_entropy(self.network(batch[rank::ranks]), label[rank::ranks])
        yield Backward("network", {"square": Term(loss)})
        yield Step("network")


def test_pixels_count_alike_whatever_their_rank(tmp_path: Path) -> None:
    batches = list(torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    alone = Sparse()
    trainer(tmp_path / "alone").fit(alone, DataLoader(batches, batch_size=None))
    assert_close(in_two(Sparse(), batches, tmp_path), alone)


class Uneven(Convolutions):
    """The first rank's loss misses a layer, and no rank's reaches another; two passes make a step."""

    def __init__(self) -> None:
        super().__init__()
        self.extra, self.idle = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        rank, ranks = self.global_rank, self.trainer.world_size
        yield Backward("network", {"square": Term(self.network(batch[rank::ranks]).square().mean())})
        maps = self.network(batch[1::2])
        weight = 0.0  # of the first of two
        if rank == ranks - 1:  # of the second; or of one, which stands for both and their mean
            maps, weight = self.extra(maps), 0.25 * ranks
        yield Backward("network", {"extra": Term(maps.mean(), weight)})
        yield Step("network")


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_fork_find_unused_parameters_true"])
def test_a_parameter_may_have_a_gradient_on_some_ranks_or_on_none(strategy: str, tmp_path: Path) -> None:
    batches = list(torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    alone = Uneven()
    first = {name: value.clone() for name, value in alone.state_dict().items()}
    trainer(tmp_path / "alone").fit(alone, DataLoader(batches, batch_size=None))
    weights = in_two(Uneven(), batches, tmp_path, strategy)
    assert_close(weights, alone)
    moved = {name.partition(".")[0] for name, value in weights.items() if not torch.equal(value, first[name])}
    assert moved == {"network", "extra"}


class Differing(Convolutions):
    """The ranks step in another order."""

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        for _ in range(1 + self.global_rank):
            yield Backward("network", {"square": Term(self.network(batch).square().mean())})
        yield Step("network")


def test_ranks_that_differ_are_told_so_and_do_not_hang(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"(?s)Rank \d.*number 1 of iteration 0.*another rank"):
        in_two(Differing(), [torch.randn(4, 3, 8, 8)], tmp_path)


def test_strategies_that_shard_parameters_are_refused(tmp_path: Path) -> None:
    module = Convolutions()
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())  # type: ignore[assignment]
    with pytest.raises(UserError, match="FSDPStrategy .* whole on every device"):
        module.configure_optimizers()
