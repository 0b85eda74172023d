"""The pool of earlier fakes against a list that does the same."""

import pytest
import torch
from torch import Tensor

from da_lightning.translation.image_pool import ImagePool


def images(count: int, first: int = 0) -> Tensor:
    """Images that are told apart by their value."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2).clone()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_does_what_a_list_does(batch_size: int) -> None:
    pool, kept, expected, shown = ImagePool(4), [], [], []
    draws = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    for first in range(0, 60, batch_size):
        for value in range(first, first + batch_size):
            if len(kept) < 4:
                kept.append(value)
                expected.append(value)
            elif torch.rand((), generator=draws) < 0.5:
                expected.append(value)
            else:
                place = torch.randint(4, (), generator=draws)
                expected.append(kept[place])
                kept[place] = value
        shown += pool.swap(images(batch_size, first))[:, 0, 0, 0].tolist()
    assert shown == expected
    assert shown != list(range(60))
    assert [image[0, 0, 0].item() for image in pool.images] == kept


def test_half_of_the_images_are_swapped_and_none_is_lost() -> None:
    torch.manual_seed(0)
    pool = ImagePool(50)
    pool.swap(images(50))
    shown = pool.swap(images(2000, first=50))[:, 0, 0, 0].tolist()
    new = sum(value == 50 + number for number, value in enumerate(shown))
    assert 0.45 < new / 2000 < 0.55
    assert sorted(shown + [image[0, 0, 0].item() for image in pool.images]) == list(range(2050))


def test_it_keeps_copies_without_gradients() -> None:
    pool, batch = ImagePool(2), images(2).requires_grad_()
    assert not pool.swap(batch).requires_grad
    with torch.no_grad():
        batch.fill_(9)
    assert [image.mean().item() for image in pool.images] == [0, 1]


def test_without_a_capacity_images_pass() -> None:
    batch = images(3)
    assert torch.equal(ImagePool(0).swap(batch), batch)
