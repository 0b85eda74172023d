"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) in the original semantics, sparse and in blocks.

Other codes square squared distances once more, count an image among its own ``k1`` neighbours, or leave out the
division by the largest distance: their numbers differ from these.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from da_lightning.reid.distances import smallest, squared_distances
from da_lightning.reid.ragged import spans

PAIRS = 1 << 12  # whose features are subtracted at once


@torch.no_grad()
def reranked_distances(
    features: Tensor, num_queries: int, k1: int = 20, k2: int = 6, weight: float = 0.3, block: int = 256
) -> Iterator[Tensor]:
    """Mix the Jaccard distance of k-reciprocal neighbourhoods with the squared Euclidean one.

    Args:
        features: Float32 [Q + G, D], queries first.
        num_queries: Q.
        k1: Neighbours, besides the image itself, that may be reciprocal.
        k2: Neighbours, the image itself among them, over which encodings are averaged.
        weight: Of the Euclidean distance, divided by the query's largest (the paper's lambda).
        block: Rows at once: memory grows with ``block * (Q + G)``, never with ``(Q + G) ** 2``.

    Yields:
        Float32 [<= block, G] in the order of the queries.
    """
    neighbours, farthest = _neighbours(features, max(k1 + 1, k2), block)
    encodings = _encodings(features, neighbours, farthest, k1, block)
    if k2 > 1:
        encodings = _averaged(encodings, neighbours[:, :k2], block)
    inverted = _inverted(encodings, num_queries)
    query, gallery = features[:num_queries], features[num_queries:]
    for begin, squared in zip(range(0, num_queries, block), squared_distances(query, gallery, block), strict=True):
        rows = range(begin, begin + len(squared))
        overlap = torch.stack([_overlap(encodings, inverted, row, len(gallery)) for row in rows])
        yield (1 - weight) * (1 - overlap / (2 - overlap)) + weight * squared / farthest[rows.start : rows.stop, None]


class _Rows(NamedTuple):
    """A sparse matrix: row ``i`` has ``counts[i]`` entries from ``starts[i]`` on."""

    starts: Tensor
    counts: Tensor
    columns: Tensor
    values: Tensor

    def places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of some rows, one after the other, each with the position of its row in ``rows``."""
        owner, _, places = spans(self.starts[rows], self.counts[rows])
        return owner, places


def _rows(row: Tensor, columns: Tensor, values: Tensor, num_rows: int) -> _Rows:
    """From entries in the order of their rows."""
    counts = row.bincount(minlength=num_rows)
    return _Rows(counts.cumsum(0) - counts, counts, columns, values)


def _neighbours(features: Tensor, count: int, block: int) -> tuple[Tensor, Tensor]:
    """Of each image the ``count`` nearest, itself among them, [N, count], and the largest squared distance [N]."""
    size = len(features)
    nearest = torch.empty(size, min(count, size), dtype=torch.int64, device=features.device)
    farthest = features.new_empty(size)
    for begin, squared in zip(range(0, size, block), squared_distances(features, features, block), strict=True):
        nearest[begin : begin + block] = smallest(squared, count)[1]
        farthest[begin : begin + block] = squared.amax(1)
    return nearest, farthest.clamp_(min=torch.finfo(torch.float32).tiny)


def _encodings(features: Tensor, neighbours: Tensor, farthest: Tensor, k1: int, block: int) -> _Rows:
    """Normalised exp(-distance) to the k-reciprocal neighbours, expanded by theirs if two thirds of them are shared."""
    size = len(features)
    everyone = torch.arange(size, device=features.device)
    near, half = neighbours[:, : k1 + 1], neighbours[:, : round(k1 / 2) + 1]
    half_reciprocal = torch.cat([(half[half[i]] == i[:, None, None]).any(2) for i in everyone.split(block)])
    found = []
    for image in everyone.split(block):
        forward = near[image]
        reciprocal = (near[forward] == image[:, None, None]).any(2)
        theirs, are_theirs = half[forward], half_reciprocal[forward]
        equal = theirs[..., None] == forward[:, None, None]
        shared = (equal & reciprocal[:, None, None]).any(3) & are_theirs
        accepted = reciprocal & (3 * shared.sum(2) > 2 * are_theirs.sum(2))
        rows = image[:, None].expand_as(forward)
        keys = rows * size + forward
        expanded = (rows[..., None] * size + theirs)[are_theirs & accepted[..., None]]
        found.append(torch.cat([keys[reciprocal], expanded]).unique())
    keys = torch.cat(found)
    row, column = keys // size, keys % size
    squared = [
        (features[one] - features[other]).square().sum(1)
        for one, other in zip(row.split(PAIRS), column.split(PAIRS), strict=True)
    ]
    values = (-torch.cat(squared) / farthest[row]).exp()
    totals = values.new_zeros(size).index_add_(0, row, values)
    return _rows(row, column, values / totals[row], size)


def _averaged(encodings: _Rows, neighbours: Tensor, block: int) -> _Rows:
    """Each row the mean over those of its neighbours."""
    size, count = neighbours.shape
    keys, values = [], []
    for image in torch.arange(size, device=neighbours.device).split(block):
        owner, places = encodings.places(neighbours[image].flatten())
        summed, index = (image[owner // count] * size + encodings.columns[places]).unique(return_inverse=True)
        keys.append(summed)
        values.append(encodings.values.new_zeros(len(summed)).index_add_(0, index, encodings.values[places] / count))
    key = torch.cat(keys)
    return _rows(key // size, key % size, torch.cat(values), size)


def _inverted(encodings: _Rows, num_queries: int) -> _Rows:
    """The gallery's encodings by column: which gallery images (from 0) have it, and how much of it."""
    size = len(encodings.counts)
    of_gallery = encodings.counts[:num_queries].sum()
    columns, order = encodings.columns[of_gallery:].sort(stable=True)
    row = torch.arange(size - num_queries, device=columns.device).repeat_interleave(encodings.counts[num_queries:])
    return _rows(columns, row[order], encodings.values[of_gallery:][order], size)


def _overlap(encodings: _Rows, inverted: _Rows, query: int, size: int) -> Tensor:
    """Sum of the smaller of both encodings over all columns, of one query with each gallery image, [G]."""
    begin, count = encodings.starts[query], encodings.counts[query]
    own = slice(begin, begin + count)
    owner, places = inverted.places(encodings.columns[own])
    smaller = torch.minimum(encodings.values[own][owner], inverted.values[places])
    return smaller.new_zeros(size).index_add_(0, inverted.columns[places], smaller)
