from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from da_lightning.segmentation.losses import IGNORE, pixel_cross_entropy
from da_lightning.training.callbacks import ChannelsLast
from da_lightning.training.module import AdaptationModule, AdversarialModule, Player, Term
from da_lightning.training.strategy import resolve_strategy

UNUSED = "ddp_find_unused_parameters_true"


@pytest.mark.parametrize(
    ("strategy", "accelerator", "devices", "num_nodes", "expected"),
    [
        ("auto", "cpu", 1, 1, ("auto", "auto")),
        ("auto", "cpu", "1", 1, ("auto", "auto")),
        ("auto", "cpu", 2, 1, ("ddp", UNUSED)),
        ("auto", "cpu", "2", 1, ("ddp", UNUSED)),
        ("auto", "cpu", 1, 2, ("ddp", UNUSED)),
        ("auto", "cpu", "auto", 1, ("auto", "auto")),
        ("auto", "gpu", [0], 1, ("auto", "auto")),
        ("auto", "gpu", [0, 2], 1, ("ddp", UNUSED)),
        ("auto", "gpu", "0,2", 1, ("ddp", UNUSED)),
        ("auto", "gpu", "3,", 1, ("auto", "auto")),
        ("auto", "gpu", "auto", 1, ("ddp", UNUSED)),
        ("auto", "gpu", -1, 1, ("ddp", UNUSED)),
        ("auto", "auto", "auto", 1, ("ddp", UNUSED)),
        (UNUSED, "gpu", 4, 1, (UNUSED, UNUSED)),
        ("ddp", "cpu", 1, 1, ("ddp", "ddp")),
    ],
)
def test_strategy(strategy, accelerator, devices, num_nodes, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for kind, wanted in zip((AdaptationModule, AdversarialModule), expected, strict=True):
        module = kind(max_iters=1)
        assert resolve_strategy(strategy, module, accelerator, devices, num_nodes) == wanted


def test_all_devices_of_a_machine_without_gpus_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_strategy("auto", AdversarialModule(max_iters=1), "auto", "auto", 1) == "auto"


class Convolutions(AdaptationModule):
    """Each rank takes its share of a batch."""

    def __init__(self) -> None:
        super().__init__(max_iters=3)
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3))

    def players(self) -> dict[str, Player]:
        return {"network": Player([(1.0, list(self.parameters()))], {"name": "SGD", "lr": 0.5})}

    def updates(self, batch: Tensor) -> Iterator[tuple[str, dict[str, Term]]]:  # type: ignore[override]
        own = batch[self.global_rank :: self.trainer.world_size]
        yield "network", {"square": Term(self.network(own).square().mean())}


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

    def updates(self, batch: Tensor) -> Iterator[tuple[str, dict[str, Term]]]:  # type: ignore[override]
        label = torch.full((4, 4, 4), IGNORE)
        label[0, :3], label[1, 0, 0] = 1, 2
        rank, ranks = self.global_rank, self.trainer.world_size
        yield "network", {"square": Term(pixel_cross_entropy(self.network(batch[rank::ranks]), label[rank::ranks]))}


def test_pixels_count_alike_whatever_their_rank(tmp_path: Path) -> None:
    batches = list(torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    alone = Sparse()
    trainer(tmp_path / "alone").fit(alone, DataLoader(batches, batch_size=None))
    assert_close(in_two(Sparse(), batches, tmp_path), alone)
