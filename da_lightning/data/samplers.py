"""Which sample comes when, as a pure function of (seed, epoch, position)."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from da_lightning.seeds import mixed_seed

Draw = tuple[int, int]
"""A sample's index and the seed of its augmentation."""


class PassSampler(Sampler[Draw]):
    """Epochs of a fixed length cut out of endless passes, each pass a new permutation.

    A restarted loader of a shorter domain would repeat its order under DDP and respawn its workers; here both
    domains simply get the same length. Ranks take turns in one common stream, so that ``n`` ranks see together what one
    would see. The augmentation's seed travels with the index: workers, ranks and a resumed run draw the same.

    Args:
        size: Number of samples in the data set.
        length: Draws in an epoch on each rank.
        seed: Of order and augmentation.
        rank, world_size: This process among all.
        turn: Draws in a row of one rank.
    """

    def __init__(self, size: int, length: int, seed: int, rank: int = 0, world_size: int = 1, turn: int = 1) -> None:
        self.indices: Sequence[int] = range(size)
        self.length, self.seed, self.turn = length, seed, turn
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.is_frozen = False  # the first epoch again and again

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = 0 if self.is_frozen else epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        stream = self._stream(generator)
        for position in range(self.length * self.world_size):
            draw = next(stream)
            if position // self.turn % self.world_size == self.rank:
                yield draw

    def _stream(self, generator: torch.Generator) -> Iterator[Draw]:
        while True:
            order = torch.randperm(len(self.indices), generator=generator)
            seeds = torch.randint(2**31, (len(order),), generator=generator)
            yield from ((self.indices[i], seed) for i, seed in zip(order.tolist(), seeds.tolist(), strict=True))
