import pytest
import torch
from torch import Tensor

from da_lightning.reid.products import combinations, similarities

SHAPES = [(1, 1, 1), (3, 1, 5), (1, 9, 4), (7, 300, 128), (20, 11, 33), (128, 1024, 70)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch", "rows", "dim"), SHAPES)
def test_products_are_those_of_matrices(batch: int, rows: int, dim: int) -> None:
    few, many, weights = drawn(batch, dim), drawn(rows, dim), drawn(batch, rows)
    torch.testing.assert_close(similarities(few, many), few @ many.T, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(combinations(weights, many), weights @ many, rtol=1e-5, atol=1e-4)


def test_products_of_views() -> None:
    few, many, weights = drawn(8, 5).T, drawn(8, 40)[:, ::2].T, drawn(5, 40)[:, 10:30]
    torch.testing.assert_close(similarities(few, many), few @ many.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(combinations(weights, many), weights @ many, rtol=1e-5, atol=1e-5)
