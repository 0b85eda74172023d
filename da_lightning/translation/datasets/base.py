"""What all data sets of images share."""

from abc import ABC, abstractmethod
from typing import Any

from torch.utils.data import Dataset


class ImageDataset(Dataset[dict[str, Any]], ABC):
    """Items are ``{"image": uint8 [3, H, W] RGB}`` in full size, and ``"label"``, an int, where the set is labelled.

    Attributes:
        labelled: Whether items have ``label``; otherwise it is absent and labels are never looked for.
    """

    labelled: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Unique relative path without suffix; the same in each run."""
