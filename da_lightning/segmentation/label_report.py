"""What a run shows of its pseudo labels: numbers for the loggers, pictures of labels and of the spatial prior."""

import logging
from pathlib import Path

import lightning.pytorch as L
import torch
from torch import Tensor
from torchvision.utils import make_grid

from da_lightning.files import dispensable, read_png, show_picture
from da_lightning.segmentation.data import TrainingView
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.pseudo_labels import Thresholds, realised_shares
from da_lightning.segmentation.spatial_prior import prior_pictures, save_prior
from da_lightning.training.callbacks import log_media
from da_lightning.training.media import Overlay

log = logging.getLogger(__name__)


def log_round(
    trainer: L.Trainer,
    module: SegmentationModule,
    round_: tuple[int, int],
    portion: float,
    found: Thresholds,
    selected: Tensor,
) -> None:
    """Log thresholds and shares of a round.

    Args:
        round_: Its number, and the number of rounds.
        portion: Share of target pixels that was asked for.
        selected: Labelled pixels per class.
    """
    shares = realised_shares(selected, found.counts).tolist()
    numbers = {"round": float(round_[0]), "pseudo_labels/portion": portion}
    numbers["pseudo_labels/share"] = (selected.sum() / found.counts.sum()).item()
    for name, share, tau in zip(module.classes, shares, found.tau.tolist(), strict=True):
        numbers[f"pseudo_labels/share/{name}"], numbers[f"pseudo_labels/tau/{name}"] = share, tau
    for logger in trainer.loggers:
        logger.log_metrics(numbers, step=module.iteration)
    log.info(
        "Round %d of %d: portion %.2f asked, %.3f of all target pixels labelled (%s).",
        *round_,
        portion,
        numbers["pseudo_labels/share"],
        ", ".join(f"{name} {share:.2f}" for name, share in zip(module.classes, shares, strict=True)),
    )


def draw_labels(
    trainer: L.Trainer, module: SegmentationModule, view: TrainingView, folder: Path, round_: int, count: int = 4
) -> None:
    """Target images and, below, their pseudo labels in ``folder``; what carries none stays black."""
    count = min(count, len(view))
    indices = [i * len(view) // count for i in range(count)]
    images = [view.plain(i)[0] for i in indices]
    labels = [read_png(view.pseudo_label_file(i, folder))[0] for i in indices]
    log_media(
        trainer,
        "pseudo_labels",
        [Overlay(i, {"pseudo_label": ids}, list(module.classes)) for i, ids in zip(images, labels, strict=True)],
    )
    overlays = [(0.4 * image + 0.6 * module.coloured(label)) for image, label in zip(images, labels, strict=True)]
    grid = make_grid(torch.stack([*(image.float() for image in images), *overlays]) / 255, nrow=count)
    show_picture(grid, Path(trainer.default_root_dir) / "pictures" / f"pseudo_labels_round_{round_}.png")


def show_prior(trainer: L.Trainer, module: SegmentationModule, prior: Tensor) -> None:
    """Write the spatial prior for those who want to look at it: the training has it in memory."""
    root = Path(trainer.default_root_dir)
    with dispensable("The spatial prior"):
        save_prior(prior, list(module.classes), root / "spatial_prior.pt")
        for name, picture in prior_pictures(prior, list(module.classes)).items():
            if not show_picture(picture, root / "pictures" / "spatial_prior" / f"{name}.png"):
                break
