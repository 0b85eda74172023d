"""Exponential moving averages of the weights of any method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import lightning.pytorch as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from da_lightning.private.lightning import average_of, drop_average, swap_average
from da_lightning.training.phases import Phase

Decay = Annotated[float, Field(ge=0, lt=1)]
"""Weight of the old average in the new one."""


class AveragedWeights(WeightAveraging):
    """Averages all weights and batch-norm statistics after each iteration, however many players stepped in it.

    The players train on from their own weights. The average is what validates, what is tested, what labels the target
    in self-training, and the ``state_dict`` of checkpoints, where the players' own weights are ``current_model_state``.

    Args:
        decay: Of the average. Its ``n``-th update takes no more than ``(1 + n) / (10 + n)``, so that short trainings
            forget their first weights.
    """

    phase = Phase.AVERAGE

    def __init__(self, decay: Decay = 0.999) -> None:
        super().__init__(device=None, use_buffers=True, multi_avg_fn=_warmed_up(decay))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING:
            drop_average(self)  # too early to copy the module, whose own setup comes later and may make weights

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer, pl_module).to(pl_module.device)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # A test wants the average, which is loaded by now; Lightning would go on to the players' own weights.
        if trainer.state.fn == TrainerFn.FITTING:
            self._begin(trainer, pl_module)
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _begin(self, trainer: L.Trainer, module: L.LightningModule) -> nn.Module:
        if average_of(self) is None:
            super().setup(trainer, module, "fit")
        return cast(nn.Module, average_of(self))


@contextmanager
def averaged_weights(trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
    """Inside, ``module`` has the weights that are to be used: the averaged ones, where the training averages.

    What is changed in an average (statistics, say) stays in it.
    """
    callback = next((c for c in trainer.callbacks if isinstance(c, AveragedWeights)), None)  # type: ignore[attr-defined]
    if callback is None:
        yield
        return
    swap_average(callback, module)
    try:
        yield
    finally:
        swap_average(callback, module)


def _warmed_up(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        n = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, count)

    return update
