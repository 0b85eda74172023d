"""What families share that train one network and score it on named sets."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as L
from pydantic import PositiveFloat
from torch import Tensor

from da_lightning.training.module import AdaptationModule
from da_lightning.training.optimizers import optimizer_options
from da_lightning.training.target_statistics import TargetStatistics

Evaluation = Literal["val", "test"]


class EvaluatedModule(AdaptationModule):
    """A method whose network is scored in validations and tests.

    Args:
        optimizer: The optimiser of the network, see :func:`~da_lightning.training.optimizers.make_optimizer`.
        clip_norm: Largest gradient norm; ``None`` does not clip.
        target_statistics: Test, select, label and save at the end under the target's batch-norm statistics (AdaBN).
        options: See :class:`~da_lightning.training.module.AdaptationModule`.
    """

    tested_network: str
    """Name of the network that is tested."""

    def __init__(
        self,
        optimizer: Mapping[str, Any],
        clip_norm: PositiveFloat | None = None,
        target_statistics: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.optimizer_options, self.clip_norm = optimizer_options(optimizer), clip_norm
        self.target_statistics = target_statistics

    def configure_callbacks(self) -> list[L.Callback]:
        return [TargetStatistics(self.tested_network)] if self.target_statistics else []

    @abstractmethod
    def begin_evaluation(self, kind: Evaluation) -> None:
        """Forget earlier scores."""

    @abstractmethod
    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None: ...

    @abstractmethod
    def scores(self) -> dict[str, Tensor]:
        """By ``<set>/<metric>``, the same on all ranks."""

    def on_validation_start(self) -> None:
        self.begin_evaluation("val")

    def on_test_start(self) -> None:
        self.begin_evaluation("test")

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.test_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.scores().items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.scores())
