"""Callbacks that no paper is about."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import PositiveInt
from torch import Tensor
from torchvision.utils import make_grid

from da_lightning.data.samplers import PassSampler
from da_lightning.data.source_target import set_names
from da_lightning.files import copy_file, show_picture
from da_lightning.private.lightning import batches_begun_in_epoch, set_max_epochs
from da_lightning.training.abilities import Draws, Overlays
from da_lightning.training.checkpoints import SOURCE_ONLY
from da_lightning.training.ema import averaged_weights
from da_lightning.training.media import Media, MediaLogger, Overlay, Table
from da_lightning.training.module import AdaptationModule
from da_lightning.training.phases import Phase

log = logging.getLogger(__name__)


class StopAtIteration(L.Callback):
    """Ends training after ``module.total_iters`` batches (Lightning's ``max_steps`` counts optimiser steps).

    Args:
        at_most: Or after so many, if they are fewer; that reaches stages, whose ``max_iters`` are their own.
    """

    phase = Phase.WORK

    def __init__(self, at_most: PositiveInt | None = None) -> None:
        self.at_most = at_most

    def length(self, module: L.LightningModule) -> int:
        """Iterations of the training."""
        iterations = cast(AdaptationModule, module).total_iters
        return iterations if self.at_most is None else min(iterations, self.at_most)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A number of epochs for the progress bar, in place of "Epoch 3/-2". Those of a run that goes on may have been
        # cut off, or of another length.
        length = int(trainer.num_training_batches)
        inside = batches_begun_in_epoch(trainer) % length  # of a checkpoint within an epoch
        left = self.length(pl_module) - cast(AdaptationModule, pl_module).iterations_done
        set_max_epochs(trainer, trainer.current_epoch + max(0, math.ceil((left + inside) / length)))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        if cast(AdaptationModule, pl_module).iterations_done >= self.length(pl_module):
            trainer.should_stop = True


class KeepSourceOnly(L.Callback):
    """Keeps the weights that adaptation begins from, so that a run shows its own gain.

    Args:
        after: Iterations of source-only training; 0 keeps the weights the run was given.
    """

    def __init__(self, after: int) -> None:
        self.after = after

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        file = self._file(trainer)
        if trainer.ckpt_path is None:
            if self.after == 0:
                self._save(trainer, pl_module)
            return
        earlier = Path(trainer.ckpt_path).with_name(file.name)
        if trainer.is_global_zero and earlier.is_file() and not file.is_file():  # the run goes on in another folder
            copy_file(earlier, file)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_past = trainer.ckpt_path is not None and cast(AdaptationModule, pl_module).iterations_done >= self.after
        if trainer.is_global_zero and is_past and not self._file(trainer).is_file():
            log.warning("%s is gone: the result will have no source_only scores beside it.", self._file(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        if cast(AdaptationModule, pl_module).iterations_done == self.after:
            self._save(trainer, pl_module)

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with averaged_weights(trainer, module):  # as the result will be, which they are held against
            trainer.save_checkpoint(self._file(trainer), weights_only=True)

    def _file(self, trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints" / SOURCE_ONLY


class SameBatches(L.Callback):
    """Shows the first epoch's batches, augmentation and all, again and again: what can learn learns them by heart.

    Lightning's ``overfit_batches`` would bring its own sampler, whose samples have no seeds.
    """

    phase = Phase.WORK

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for loader in cast(dict, trainer.train_dataloader).values():
            cast(PassSampler, loader.sampler).is_frozen = True


class ChannelsLast(L.Callback):
    """Stores convolution weights channels-last: same numbers up to rounding, often faster convolutions."""

    phase = Phase.WORK

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)


class Pictures(L.Callback):
    """Writes grids of ``module.pictures(sample, domain)`` to ``pictures/`` and sends them to loggers that take images.

    Args:
        every_n_epochs: How often training samples are drawn (also after the last epoch).
        count: Samples in a grid, one a row.
    """

    phase = Phase.WORK

    def __init__(self, every_n_epochs: PositiveInt = 10, count: PositiveInt = 4) -> None:
        self.every_n_epochs, self.count = every_n_epochs, count
        self._tests: dict[str, list[tuple[list[Tensor], list[Overlay]]]] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = cast(AdaptationModule, pl_module)
        is_due = trainer.is_last_batch and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.is_global_zero and (is_due or trainer.should_stop or module.iterations_done >= module.total_iters):
            for domain, sample in batch.items():
                first = {key: value[: self.count] for key, value in sample.items()}
                columns, overlays = _drawn(trainer, module, first, domain)
                write_picture(trainer, f"train_{domain}", _rows(columns), len(columns), module.iteration, overlays)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tests = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        name = set_names(trainer, "test")[dataloader_idx]
        drawn = self._tests.setdefault(name, [])
        # Spread over the set: neighbouring samples are often neighbouring frames.
        loader_length = int(trainer.num_test_batches[dataloader_idx])
        is_due = batch_idx % max(1, loader_length // self.count) == 0 and len(drawn) < self.count
        if trainer.is_global_zero and is_due:
            first = {key: value[:1] for key, value in batch.items()}
            drawn.append(_drawn(trainer, pl_module, first, name))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, drawn in self._tests.items():
            if drawn:
                rows = [images for images, _ in drawn]
                height, width = (max(image.shape[side] for images in rows for image in images) for side in (-2, -1))
                framed = [[_framed(image, height, width) for image in images] for images in rows]
                columns = [torch.cat(column) for column in zip(*framed, strict=True)]
                prefix = "source_only" if tests_source_only(trainer) else "test"
                iteration = cast(AdaptationModule, pl_module).iteration
                overlays = [overlay for _, overlays in drawn for overlay in overlays]
                write_picture(trainer, f"{prefix}_{name}", _rows(columns), len(columns), iteration, overlays)


def _drawn(
    trainer: L.Trainer, module: L.LightningModule, sample: dict[str, Tensor], domain: str
) -> tuple[list[Tensor], list[Overlay]]:
    """The method's own columns, or the images alone; and overlays, where a logger is worth another forward pass."""
    columns = [(sample["image"] * 255).to(torch.uint8)]
    if isinstance(module, Draws):
        columns = module.pictures(sample, domain)
    is_worth = any(isinstance(logger, MediaLogger) for logger in trainer.loggers)
    return columns, module.overlays(sample, domain) if is_worth and isinstance(module, Overlays) else []


def _framed(image: Tensor, height: int, width: int) -> Tensor:
    """``image`` uint8 [B, 3, h, w] on white [B, 3, height, width], for test images of several sizes in one grid."""
    return torch.nn.functional.pad(image, [0, width - image.shape[-1], 0, height - image.shape[-2]], value=255)


def tests_source_only(trainer: L.Trainer) -> bool:
    """Whether the weights under test are those that adaptation began from, which must not pass for the result."""
    return Path(trainer.ckpt_path or "").name == SOURCE_ONLY


def write_picture(
    trainer: L.Trainer,
    name: str,
    rows: Tensor,
    columns: int,
    iteration: int,
    instead: Table | Sequence[Overlay] | None = None,
) -> None:
    """Write a grid of images to ``pictures/<name>.png`` of the run and send it to loggers that take images.

    Args:
        rows: float RGB [N, 3, H, W] in 0..1, row after row.
        columns: Images in a row.
        instead: The same for loggers that can show more than a grid.
    """
    file = Path(trainer.default_root_dir) / "pictures" / f"{name}.png"
    grid = make_grid(rows, nrow=columns, padding=2, pad_value=1.0)
    show_picture(grid, file)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            try:
                logger.experiment.add_image(f"pictures/{name}", grid, iteration)
            except OSError as error:  # of its writer, which a guarded logger knows nothing of
                log.warning("TensorBoard has no picture %s: %s", name, error)
    log_media(trainer, name, instead or file)


def log_media(trainer: L.Trainer, name: str, media: Media) -> None:
    """Send what is no number to the loggers that take it."""
    for logger in trainer.loggers:
        if isinstance(logger, MediaLogger):
            logger.log_media(f"pictures/{name}", media)


def _rows(columns: list[Tensor]) -> Tensor:
    return torch.stack([column.float().cpu() / 255 for column in columns], dim=1).flatten(0, 1)
