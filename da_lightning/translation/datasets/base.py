"""What all data sets of images share."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from da_lightning.data.named import NamedDataset

Item = TypeVar("Item")


@runtime_checkable
class Images(Protocol):
    """What loaders ask of a data set: all that :class:`ImageDataset` has, which need not be its base."""

    labelled: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    @abstractmethod
    def name(self, index: int, /) -> str:
        """Unique relative path without suffix; the same in each run."""


class ImageDataset(NamedDataset):
    """Items are ``{"image": uint8 [3, H, W] RGB}`` in full size, and ``"label"``, an int, where the set is labelled.

    Attributes:
        labelled: Whether items have ``label``; otherwise it is absent and labels are never looked for.
    """

    labelled: bool = False


def thinned(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most ``limit`` of ``items``, evenly spread."""
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]
