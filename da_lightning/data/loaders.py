"""Loaders whose order follows the place in the training, however many processes load."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class TrainingLoader(DataLoader):
    """Makes the iterator of an epoch, and its worker processes, when the first batch is asked for.

    Lightning makes the iterators of a training's first epoch before it says by ``set_epoch`` which one that is. Workers
    draw at once, so that a resumed training would see epoch 0 again, and data as they were before ``on_train_start``.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()
