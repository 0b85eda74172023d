"""From a network to files of pseudo labels: logits of the target, probabilities, thresholds, label maps."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import lightning.pytorch as L
import torch
from torch import Tensor

from da_lightning.data.images import open_image
from da_lightning.errors import DataError
from da_lightning.files import damaged_images, write_png
from da_lightning.segmentation.data import SegmentationDataModule, TrainingView
from da_lightning.segmentation.losses import upsampled
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.pseudo_labels import Thresholds, class_counts, find_thresholds, select
from da_lightning.training.progress import tracked
from da_lightning.training.strategy import failing_together

KEPT_BYTES = 4 * 2**30
"""Logits at the network's stride are kept up to this size while labels are made; probability maps never are."""

Policy = Literal["class_balanced", "global"]

Views = tuple[Tensor, list[Tensor]]
"""Indices of images, and the logits of each view of them."""


@dataclass(frozen=True)
class Labelling:
    """How pseudo labels are made of the target images that are this rank's share.

    Args:
        policy: One threshold for each class (``class_balanced``, CBST) or one for all (``global``, ST).
        stride: Rank every n-th pixel of an image and class.
        flip_average: Average the probabilities of an image and its mirror image.
    """

    policy: Policy
    stride: int
    flip_average: bool

    def write(
        self,
        trainer: L.Trainer,
        module: SegmentationModule,
        data: SegmentationDataModule,
        prior: Tensor | None,
        portion: float,
        folder: Path,
    ) -> tuple[Thresholds, Tensor]:
        """Label the most confident ``portion`` of the pixels, and write a PNG of class ids (255: none) for each image.

        Args:
            prior: What probabilities are multiplied with, [K, H, W].

        Returns:
            The thresholds and the labelled pixels per class, int64 [K], both of all ranks.
        """
        logits = _remembered(lambda: self._logits(trainer, module, data))
        batches, num_classes = len(data.ordered_loader(data.unlabelled_target())), len(module.classes)
        size = data.target_view.size

        def maps() -> Iterator[Tensor]:
            seen = tracked(trainer, logits(), "Pseudo labels", batches, draw=False)
            return (_probabilities(module, views, size, prior) for _, views in seen)

        def reduce(counts: Tensor) -> Tensor:
            return cast(Tensor, trainer.strategy.reduce(counts.to(module.device), reduce_op="sum")).cpu()

        found = find_thresholds(maps, num_classes, portion, self.policy, self.stride, reduce)
        selected = torch.zeros(num_classes, dtype=torch.int64)
        with failing_together(trainer.strategy):
            for (indices, _), probabilities in zip(logits(), maps(), strict=True):
                labels = select(probabilities, found.tau).cpu()
                selected += class_counts(labels, num_classes)
                for index, label in zip(indices.tolist(), labels, strict=True):
                    write_png(label[None].to(torch.uint8), data.target_view.pseudo_label_file(index, folder))
        return found, reduce(selected)

    def _logits(self, trainer: L.Trainer, module: SegmentationModule, data: SegmentationDataModule) -> Iterator[Views]:
        """Main-level logits of target images and, if wanted, of their mirror images (mirrored back)."""
        loader = data.ordered_loader(data.unlabelled_target())
        for batch in tracked(trainer, loader, "Predicting the target", len(loader), draw=False):
            batch = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.forward_context():
                views = [module.infer(batch["image"])]
                if self.flip_average:
                    views.append(module.infer(batch["image"].flip(-1)).flip(-1))
            yield batch["index"].cpu(), [view.float().cpu() for view in views]


def problem_of_labels(view: TrainingView, folder: Path) -> str | None:
    """What is wrong with the pseudo labels of ``view`` in ``folder``; ``None``: nothing."""
    files = [view.pseudo_label_file(index, folder) for index in range(len(view))]
    if not folder.is_dir():
        return f"Its pseudo labels were in {folder} and are gone"
    if missing := [file for file in files if not file.is_file()]:
        return (
            f"{len(missing)} of its {len(files)} pseudo labels are not in {folder}, the first is "
            f"{missing[0].relative_to(folder)}"
        )
    if damaged := damaged_images(files):
        return (
            f"{len(damaged)} of its {len(files)} pseudo labels in {folder} are damaged, the first is "
            f"{damaged[0].relative_to(folder)}"
        )
    height, width = view.size
    for file in files:
        try:
            with open_image(file) as image:
                found, mode = image.size, image.mode
        except DataError as error:
            return str(error)
        if found != (width, height) or mode != "L":
            return (
                f"{file} is {found[0]}x{found[1]} of mode {mode}, where a pseudo label of this run is "
                f"{width}x{height} of mode L"
            )
    return None


def _probabilities(
    module: SegmentationModule, views: list[Tensor], size: tuple[int, int], prior: Tensor | None
) -> Tensor:
    """Mean softmax of the views, float32 whatever the precision, times the prior."""
    views = [upsampled(view.to(module.device), size, module.align_corners).softmax(1) for view in views]
    mean = torch.stack(views).mean(0)
    return mean if prior is None else mean * prior.to(mean.device)


def _remembered(passes: Callable[[], Iterator[Views]]) -> Callable[[], Iterable[Views]]:
    """The same passes; the first one's logits are kept if they fit in memory, and else computed again each time."""
    kept, size = [], 0
    for item in passes():
        size += sum(view.nbytes for view in item[1])
        if size > KEPT_BYTES:
            return passes
        kept.append(item)
    return lambda: kept
