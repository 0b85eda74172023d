"""Batches of a few images each of several persons."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from da_lightning.data.samplers import Draw, PassSampler


class IdentitySampler(PassSampler):
    """P x K: endless passes over the persons, ``images_per_person`` draws of each in a row.

    "Multiple gallery", as in MMT: an image at random, the others by other cameras, if the person was seen by any; a
    person with a single image has it repeated (MMT leaves such persons out). Ranks take turns by whole batches, so that
    ``n`` of them see together what one would in a batch ``n`` times as large.

    Args:
        persons, cameras: Of each sample.
        images_per_person: K; divides ``batch_size``.
        batch_size: Draws in a batch on each rank.
        length, seed, rank, world_size: As of :class:`~da_lightning.data.samplers.PassSampler`.
    """

    def __init__(
        self,
        persons: Sequence[int],
        cameras: Sequence[int],
        images_per_person: int,
        batch_size: int,
        length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(persons), length, seed, rank, world_size, turn=batch_size)
        self.persons, self.cameras, self.images_per_person = persons, cameras, images_per_person

    def _stream(self, generator: torch.Generator) -> Iterator[Draw]:
        def drawn(pool: list[int], count: int) -> list[int]:
            if count <= len(pool):
                places = torch.randperm(len(pool), generator=generator)[:count]
            else:
                places = torch.randint(len(pool), (count,), generator=generator)
            return [pool[place] for place in places.tolist()]

        images = defaultdict(list)
        for index in self.indices:
            images[self.persons[index]].append(index)
        persons = sorted(images)
        while True:
            for place in torch.randperm(len(persons), generator=generator).tolist():
                own = images[persons[place]]
                [anchor] = drawn(own, 1)
                others = [index for index in own if self.cameras[index] != self.cameras[anchor]]
                others = others or [index for index in own if index != anchor] or own
                tuple_ = [anchor, *drawn(others, self.images_per_person - 1)]
                seeds = torch.randint(2**31, (self.images_per_person,), generator=generator).tolist()
                yield from zip(tuple_, seeds, strict=True)
