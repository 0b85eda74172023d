"""Training on the source's labels alone: what every adaptation method is measured against."""

from typing import Any

from pydantic import PositiveInt

from da_lightning.segmentation.module import SegmentationModule
from da_lightning.training.players import Backward, Batch, Player, Step, Updates
from da_lightning.training.schedules import poly


class SourceOnly(SegmentationModule):
    """Cross-entropy on labelled source images; the target is not looked at.

    With the target's labelled images given as the source it is the oracle.

    Args:
        horizon: Iteration at which the polynomial decay reaches 0; ``None`` is ``max_iters``.
        options: See :class:`~da_lightning.segmentation.module.SegmentationModule`.
    """

    def __init__(self, horizon: PositiveInt | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.use_schedule(poly(horizon or self.max_iters))

    def players(self) -> dict[str, Player]:
        return {"segmenter": self.segmenter()}

    def updates(self, batch: Batch) -> Updates:
        source = batch["source"]
        yield Backward("segmenter", self.supervised(self.network(source["image"]), source["label"]))
        yield Step("segmenter")
