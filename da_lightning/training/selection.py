"""Selection of weights: which of the epochs' weights are tested, in place of the last."""

import logging
from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import Dataset, Subset

from da_lightning.data.source_target import SourceTargetDataModule, data_of
from da_lightning.errors import UserError
from da_lightning.training.abilities import Selects
from da_lightning.training.ema import averaged_weights
from da_lightning.training.module import AdaptationModule, evaluating
from da_lightning.training.phases import Phase
from da_lightning.training.progress import tracked
from da_lightning.training.scores import SelectionScore
from da_lightning.training.target_statistics import under_target_statistics

log = logging.getLogger(__name__)

WORDS = {
    "entropy": "lowest mean entropy of predictions on target images without labels",
    "snd": "highest soft neighbourhood density on target images without labels",
    "source": "highest score on labelled source images that training has not seen",
    "oracle": "oracle, chosen with target labels: an upper bound",
}
"""How the weights were selected, as ``metrics.json`` and the report say it."""


class Selection(ModelCheckpoint):
    """Scores the weights at epochs' ends and keeps the best of them in ``checkpoints/selected_<score>.ckpt``.

    Scored, kept and tested are the same weights: the averaged ones, if the training averages, in the state in which
    the method would leave them if it ended there. Lightning's validation comes before the callbacks that bring them
    into that state (batch-norm statistics of the target, for one), so the images are gone through here. Training itself
    is not touched.

    Args:
        score: ``entropy`` and ``snd`` of the target's training images, seen as in a test and without labels;
            ``source``: the method's own measure (mIoU, mAP) on labelled source images, ``validations.source`` of the
            data or else ``tests.source``; ``oracle``: that measure on ``tests.target``, an upper bound.
        every_n_epochs: How often weights are scored; the last are in any case.
        max_images: Target images that are looked at, spread evenly over the set; ``None`` is all.
        temperature: Of ``snd``.
    """

    phase = Phase.SELECTION

    def __init__(
        self,
        score: SelectionScore,
        every_n_epochs: PositiveInt = 1,
        max_images: PositiveInt | None = None,
        temperature: PositiveFloat = 0.05,
    ) -> None:
        super().__init__(
            filename=f"selected_{score}",
            monitor=f"val/selection/{score}",
            mode="min" if score == "entropy" else "max",
            save_weights_only=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.score, self.period, self.max_images, self.temperature = score, every_n_epochs, max_images, temperature
        self.iteration = 0

    def check(self, module: AdaptationModule, data: L.LightningDataModule) -> None:
        """See that there is something to score by, before any work is done.

        Raises:
            UserError: The score makes no sense for the method, or the data has no images for it.
        """
        if not isinstance(module, Selects):
            raise UserError(
                f"selection={self.score} scores segmentations and embeddings of persons, and {type(module).__name__} "
                "makes neither: give selection=last."
            )
        module.selection_score(self.score, self.temperature)
        self._images(cast(SourceTargetDataModule, data))

    def describe(self, module: AdaptationModule) -> str:
        """How the kept weights were selected, and when."""
        return f"{WORDS[self.score]} (iteration {self.iteration:,} of {module.total_iters:,})"

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.check(cast(AdaptationModule, pl_module), data_of(trainer, SourceTargetDataModule))
            if self.score == "oracle" and trainer.is_global_zero:
                log.warning(
                    "selection=oracle: the tested weights are chosen with target labels: an upper bound, not a result "
                    "of unsupervised adaptation."
                )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(AdaptationModule, pl_module)
        done = module.iterations_done
        if (trainer.current_epoch + 1) % self.period and done < module.total_iters:
            return
        with averaged_weights(trainer, module), under_target_statistics(trainer, module):
            value = self._value(trainer, module)
            module.log(cast(str, self.monitor), value.float())
            best = self.best_model_score
            super().on_train_epoch_end(trainer, module)
        if is_best := self.best_model_score is not best:
            self.iteration = done
        log.info("Selection by %s: %.5g at iteration %d%s.", self.score, value, done, ", the best" if is_best else "")

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"iteration": self.iteration}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.iteration = state_dict["iteration"]

    # -- a score -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _value(self, trainer: L.Trainer, module: AdaptationModule) -> Tensor:
        data = data_of(trainer, SourceTargetDataModule)

        def batches() -> Iterator[dict[str, Tensor]]:
            loader = data.ordered_loader(self._images(data))
            for batch in tracked(trainer, loader, "Scoring for the selection", len(loader), draw=False):
                yield trainer.strategy.batch_to_device(batch)

        with evaluating(module), trainer.precision_plugin.forward_context():
            return cast(Selects, module).selection_score(self.score, self.temperature)(batches())

    def _images(self, data: SourceTargetDataModule) -> Dataset:
        if self.score in ("entropy", "snd"):
            images = data.unlabelled_target()
            size = len(cast(Any, images))
            count = min(size, self.max_images or size)
            return Subset(images, [i * size // count for i in range(count)])
        name = "target" if self.score == "oracle" else "source"
        sets = data.tests if self.score == "oracle" else data.tests | data.validations
        if name not in sets:
            wanted = f"data.tests.{name}" if self.score == "oracle" else "data.validations.source or data.tests.source"
            raise UserError(
                f"selection={self.score} needs labelled images as {wanted}, found none there: add them to the data, or "
                "give another selection."
            )
        return sets[name]
