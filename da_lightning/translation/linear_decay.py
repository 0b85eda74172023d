"""What CycleGAN, DRIT and StarGAN share: the learning rate's course, and what they ask of a batch."""

import warnings
from typing import Any

from da_lightning.errors import UserError
from da_lightning.training.schedules import linear
from da_lightning.translation.module import TranslationModule


class LinearDecayTranslation(TranslationModule):
    """Learning rates stay as they are, then fall linearly to 0 at the end.

    Args:
        decay_from: Iteration from which they fall; ``None`` is half of the training.
        options: See :class:`~da_lightning.translation.module.TranslationModule`.
    """

    def __init__(self, decay_from: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.decay_from = self.max_iters // 2 if decay_from is None else decay_from
        self.use_schedule(linear(self.max_iters, decay_from=self.decay_from))

    def refuse_accumulation(self) -> None:
        """For methods whose players step unequally often, which would mix the gradients of several batches.

        Raises:
            UserError: Batches are accumulated.
        """
        if self.accumulate > 1:
            raise UserError(
                f"Expected method.accumulate=1 for {type(self).__name__}, whose players step unequally often, but "
                f"found {self.accumulate}; raise data.batch_size instead."
            )

    def on_train_start(self) -> None:
        # A player that is not up in the first iteration steps after its schedule, which counts iterations.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
