"""Distances between features in exact float32, in blocks of queries, and the smallest of them."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from da_lightning.errors import UserError
from da_lightning.reid.products import similarities

Distance = Literal["cosine", "euclidean"]


def comparable(features: Tensor, distance: Distance) -> Tensor:
    """Features [N, D] as float32 whose Euclidean distances order like ``distance``: unit vectors for cosine."""
    if distance not in ("cosine", "euclidean"):
        raise UserError(f"The distance of features must be 'cosine' or 'euclidean', got '{distance}': choose one.")
    features = features.detach().float()
    return F.normalize(features) if distance == "cosine" else features


def squared_distances(query: Tensor, gallery: Tensor, block: int) -> Iterator[Tensor]:
    """Squared Euclidean distances of float32 features [Q, D] and [G, D], without autocast or TF32.

    Yields:
        Float32 [<= block, G] in the order of the queries.
    """
    lengths = torch.cat([part.square().sum(1) for part in gallery.split(block)])
    for part in query.split(block):
        distances = torch.add(lengths, similarities(part, gallery), alpha=-2).contiguous()
        yield distances.add_(part.square().sum(1, keepdim=True)).clamp_(min=0)


def sorted_rows(distances: Tensor) -> Tensor:
    """The values of each row, ascending."""
    if distances.device.type != "cpu":
        return distances.sort(dim=1).values
    return torch.from_numpy(np.sort(distances.numpy(), axis=1))  # ten times as fast as torch


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest of each row of distances >= 0, ascending, and their places, [Q, min(k, G)].

    The first of equals comes first: the bits of floats >= 0 sort like the floats, and places fill the lower half.
    """
    keys = (distances.view(torch.int32).long() << 32).add_(torch.arange(distances.shape[1], device=distances.device))
    places = keys.topk(min(k, distances.shape[1]), largest=False).values & 0xFFFFFFFF
    return distances.gather(1, places), places
