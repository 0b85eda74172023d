"""What a run hands to loggers that take more than numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Overlay(NamedTuple):
    """An image, and labels to lay over it.

    Args:
        image: uint8 RGB [3, H, W].
        maps: Class ids [H, W] by what they are (``prediction``, ``label``); 255 = none.
        classes: Names, in the order of the ids.
    """

    image: Tensor
    maps: dict[str, Tensor]
    classes: Sequence[str]


class Table(NamedTuple):
    """Rows of cells: text, numbers, images (float RGB [3, H, W] in 0..1), or ``None``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | Tensor | None]]


Media = Path | Sequence[Overlay] | Table
"""A picture's file, images with labels over them, or a table."""


@runtime_checkable
class MediaLogger(Protocol):
    """What such a logger has besides Lightning's methods."""

    def log_media(self, key: str, media: Media) -> None:
        """Log under ``key`` at the present iteration."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log what is known at the end: the contents of ``metrics.json``."""

    def close(self, failed: bool) -> None:
        """Write out everything: the next run begins a record of its own."""
