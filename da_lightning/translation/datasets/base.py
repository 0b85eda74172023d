"""What all data sets of images share."""

from typing import Any, Protocol, runtime_checkable

from da_lightning.data.named import NamedDataset


@runtime_checkable
class Images(Protocol):
    """What loaders ask of a data set: all that :class:`ImageDataset` has, which need not be its base."""

    labelled: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...

    def name(self, index: int, /) -> str: ...


class ImageDataset(NamedDataset):
    """Items are ``{"image": uint8 [3, H, W] RGB}`` in full size, and ``"label"``, an int, where the set is labelled.

    Attributes:
        labelled: Whether items have ``label``; otherwise it is absent and labels are never looked for.
    """

    labelled: bool = False
