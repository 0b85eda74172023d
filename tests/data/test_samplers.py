from itertools import chain

import pytest

from da_lightning.data.samplers import PassSampler


def epoch_of(epoch: int, size: int = 5, length: int = 12, **options) -> list[tuple[int, int]]:
    sampler = PassSampler(size, length, **{"seed": 7, **options})
    sampler.set_epoch(epoch)
    return list(sampler)


def test_order_and_augmentation_seeds_depend_on_seed_and_epoch_alone() -> None:
    assert epoch_of(3) == epoch_of(3)
    assert epoch_of(3) != epoch_of(4)
    assert epoch_of(3) != epoch_of(3, seed=8)
    sampler = PassSampler(5, 12, 7)
    for epoch in (0, 1, 3):  # what was drawn before does not matter
        sampler.set_epoch(epoch)
        list(sampler)
    assert list(sampler) == list(sampler) == epoch_of(3)
    assert epoch_of(3, length=6) == epoch_of(3)[:6]


def test_passes_are_permutations_and_differ() -> None:
    draws = epoch_of(0, size=50, length=150)
    passes = [[index for index, _ in draws[start : start + 50]] for start in (0, 50, 100)]
    assert all(sorted(indices) == list(range(50)) for indices in passes)
    assert passes[0] != passes[1] != passes[2]
    assert len({seed for _, seed in draws}) == 150


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_draw_what_one_would(world_size: int) -> None:
    alone = epoch_of(1, length=12)
    ranks = [epoch_of(1, length=12 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert list(chain.from_iterable(zip(*ranks, strict=True))) == alone


def test_only_the_given_indices_are_drawn_each_as_often() -> None:
    sampler = PassSampler(100, 9, seed=0)
    sampler.indices = [3, 42, 77]
    assert sorted(index for index, _ in sampler) == [3] * 3 + [42] * 3 + [77] * 3
    assert len(sampler) == 9
