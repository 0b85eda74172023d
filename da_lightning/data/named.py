"""What all data sets of images share."""

from abc import ABC, abstractmethod
from typing import Any

from torch.utils.data import Dataset


class NamedDataset(Dataset[dict[str, Any]], ABC):
    """Items by number, each with a name."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Unique relative path without suffix, e.g. ``aachen/aachen_000000_000019``; the same in each run."""
