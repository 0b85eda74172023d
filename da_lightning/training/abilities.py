"""What a method may be able to do beyond training: its family's modules can, a method of one's own need not."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from da_lightning.training.exportable import Exportable
from da_lightning.training.media import Overlay
from da_lightning.training.scores import SelectionScore


@runtime_checkable
class Exports(Protocol):
    """It can be written to a file that another runtime reads, see :mod:`da_lightning.export`."""

    def exportable(self, **options: Any) -> Exportable:
        """What is written; a family's own arguments are options of the command."""
        ...


@runtime_checkable
class Draws(Protocol):
    """It has pictures of samples."""

    def pictures(self, sample: dict[str, Tensor], domain: str) -> list[Tensor]:
        """Columns of a picture of ``sample`` from ``domain`` (or a test set's name), uint8 RGB [B, 3, H, W] each."""
        ...


@runtime_checkable
class Overlays(Protocol):
    """It has pictures for loggers that lay labels over images."""

    def overlays(self, sample: dict[str, Tensor], domain: str) -> list[Overlay]:
        """An overlay of each sample."""
        ...


@runtime_checkable
class Selects(Protocol):
    """Its weights can be scored, see :class:`~da_lightning.training.selection.Selection`."""

    def selection_score(
        self, score: SelectionScore, temperature: float
    ) -> Callable[[Iterable[dict[str, Tensor]]], Tensor]:
        """What gives present weights the ``score`` from this rank's batches; the same on all ranks.

        Raises:
            UserError: It makes no sense for this method.
        """
        ...
