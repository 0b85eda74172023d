"""A mean teacher on drawn streets, for tests: ``DA_TRUSTED_PACKAGES=tiny_teachers`` lets checkpoints name it."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from omegaconf import OmegaConf
from tiny_runs import composed, tiny, trainer_of_two

from da_lightning.config.build import build
from da_lightning.segmentation.losses import IGNORE, pixel_cross_entropy
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.training.norms import separate_norms, source_norms
from da_lightning.training.players import Backward, Batch, Step, Term, Updates
from da_lightning.training.teacher import Teacher, build_teacher


class MeanTeacher(SourceOnly):
    """Two losses, one step; a batch norm for each domain if ``separate``; a frozen copy of the first weights."""

    def __init__(self, teacher: Mapping[str, Any] | None = None, separate: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.separate = separate
        if separate:
            separate_norms(self.network)
        self.teacher = build_teacher(self.network, teacher or {})
        self.reference = Teacher.frozen(self.network)

    def teachers(self) -> dict[str, Teacher]:
        return {"network": self.teacher}

    def updates(self, batch: Batch) -> Updates:
        source, target = batch["source"], batch["target"]
        with source_norms(self.network) if self.separate else nullcontext():
            levels = self.network(source["image"])
        yield Backward("segmenter", self.supervised(levels, source["label"]))
        probability, label = self.teacher(target["image"])[0].logits.float().softmax(1).max(1)
        label[probability < 0.15] = IGNORE
        consistency = pixel_cross_entropy(self.network(target["image"])[0].logits.float(), label)
        yield Backward("segmenter", {"consistency": Term(consistency)})
        yield Step("segmenter")


def built_teacher(
    teacher: Mapping[str, Any] | None = None, *overrides: str, separate: bool = False, seed: int = 0
) -> tuple[MeanTeacher, L.LightningDataModule]:
    """Method and data of a tiny run with dropout, in three epochs of two iterations."""
    wanted = ("method.network.dropout=0.5", *overrides)
    cfg = composed("method=segmentation_source_only", *tiny("segmentation_source_only"), *wanted)
    options = OmegaConf.to_container(cfg.method, resolve=True)
    options.pop("_target_")
    L.seed_everything(seed, verbose=False)
    return MeanTeacher(teacher, separate, **options), build(cfg.data, "data")


class WriteState(L.Callback):
    """Leaves each rank's state dict as ``rank_<n>.pt`` in the run folder."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(pl_module.state_dict(), Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}.pt")


def train_in_two() -> None:
    """Four steps in two processes; each leaves its state in the working folder."""
    trainer_of_two(Path.cwd(), WriteState(), max_steps=4).fit(*built_teacher())
