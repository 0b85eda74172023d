"""Products of a few features with many rows."""

from torch import Tensor
from torch.nn import functional as F

# On CPUs as 1x1 convolutions over pixels: oneDNN's kernels use AVX-512 on every CPU, those of ``torch.mm`` on Intel's.


def similarities(few: Tensor, rows: Tensor) -> Tensor:
    """``few @ rows.T``: float32 [B, D] and [N, D] -> [B, N], transposed in memory on CPUs."""
    if few.device.type != "cpu":
        return few @ rows.T
    return _vectors(F.conv2d(_pixels(rows), few[:, :, None, None])).T


def combinations(weights: Tensor, rows: Tensor) -> Tensor:
    """``weights @ rows``: float32 [B, N] and [N, D] -> [B, D]. Fast on CPUs where ``rows`` fit their cache."""
    if weights.device.type != "cpu":
        return weights @ rows
    return _vectors(F.conv_transpose2d(_pixels(weights), rows[:, :, None, None]))


def _pixels(vectors: Tensor) -> Tensor:
    """[N, D] as a channels-last image [1, D, N, 1]; a view if contiguous."""
    return vectors.reshape(1, -1, 1, vectors.shape[1]).permute(0, 3, 1, 2)


def _vectors(image: Tensor) -> Tensor:
    return image[0, :, :, 0].T
