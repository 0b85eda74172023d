"""Products of a few features with many rows, in exact float32: without autocast or TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

# On CPUs as 1x1 convolutions over pixels: oneDNN's kernels use AVX-512 on every CPU, those of ``torch.mm`` on Intel's.


def similarities(few: Tensor, rows: Tensor) -> Tensor:
    """``few @ rows.T``: float32 [B, D] and [N, D] -> [B, N], transposed in memory on CPUs."""
    with _exact(few.device):
        if few.device.type != "cpu" or not len(few) or not len(rows):
            return few @ rows.T
        return _vectors(F.conv2d(_pixels(rows), few[:, :, None, None])).T


def combinations(weights: Tensor, rows: Tensor) -> Tensor:
    """``weights @ rows``: float32 [B, N] and [N, D] -> [B, D]. Fast on CPUs where ``rows`` fit their cache."""
    with _exact(weights.device):
        if weights.device.type != "cpu" or not len(weights) or not len(rows):
            return weights @ rows
        return _vectors(F.conv_transpose2d(_pixels(weights), rows[:, :, None, None]))


def _pixels(vectors: Tensor) -> Tensor:
    """[N, D] as a channels-last image [1, D, N, 1]; a view if contiguous."""
    return vectors.reshape(1, -1, 1, vectors.shape[1]).permute(0, 3, 1, 2)


def _vectors(image: Tensor) -> Tensor:
    return image[0, :, :, 0].T


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    cpu = torch.backends.mkldnn
    backends = torch.backends.cuda.matmul, cpu.matmul, cpu.conv  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
