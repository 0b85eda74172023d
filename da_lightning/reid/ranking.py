"""Rank galleries for queries, and score it by the rules of Market-1501 (Zheng et al., ICCV 2015)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from da_lightning.errors import DataError, UserError
from da_lightning.reid.datasets.base import JUNK
from da_lightning.reid.datasets.query_gallery import why_nothing_is_found
from da_lightning.reid.distances import Distance, comparable, smallest, sorted_rows, squared_distances
from da_lightning.reid.ragged import spans
from da_lightning.reid.reranking import reranked_distances

log = logging.getLogger(__name__)

RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, eq=False)
class QueryScores:
    """How well queries found their persons; queries without a positive are in ``valid`` only.

    Attributes:
        valid: Whether a query has a positive, bool [Q].
        first: Rank of the first positive, from 1, int64 [V].
        precision: Average precision: mean over the positives of the precision at their ranks, float64 [V].
        trapezoid: That of the official code: mean of the precisions at, and just before, those ranks, float64 [V].
    """

    valid: Tensor
    first: Tensor
    precision: Tensor
    trapezoid: Tensor

    def means(self) -> dict[str, Tensor]:
        """``map``, ``map_trapezoid`` and ``rank<k>``, the share of queries with a positive among the first k."""
        ranks = {f"rank{k}": (self.first <= k).double().mean() for k in RANKS}
        return {"map": self.precision.mean(), "map_trapezoid": self.trapezoid.mean()} | ranks


def rank(
    distances: Iterable[Tensor], query_person: Tensor, query_camera: Tensor, person: Tensor, camera: Tensor
) -> QueryScores:
    """Score the gallery's order by distance, each query by itself.

    Junk (person -1) and images of the query's person by the query's camera are left out. Distractors (person 0) are
    negative by having no query. Of equal distances the first in the gallery comes first.

    Args:
        distances: Float32 [b, G] for one block of queries after the other.
        query_person, query_camera: Int64 [Q].
        person, camera: Of the gallery, int64 [G].
    """
    junk = (person == JUNK).nonzero()[:, 0]
    persons, by_person = person.sort(stable=True)
    starts = torch.searchsorted(persons, query_person)
    counts = (torch.searchsorted(persons, query_person, right=True) - starts).masked_fill(query_person == JUNK, 0)
    valid, first, precision, trapezoid = [], [], [], []
    begin = 0
    for block in distances:
        part = slice(begin, begin := begin + len(block))
        row, _, places = spans(starts[part], counts[part])
        column = by_person[places]
        is_own = query_camera[part][row] == camera[column]
        kept = block.index_fill(1, junk, torch.inf)
        kept[row[is_own], column[is_own]] = torch.inf
        ranks, positives = _ranks(kept, row[~is_own], column[~is_own])

        is_valid = positives > 0
        ranks, positives = ranks[is_valid], positives[is_valid, None]
        hits = torch.arange(1, ranks.shape[1] + 1, dtype=torch.float64)
        at = hits / ranks
        before = torch.where(ranks > 1, (hits - 1) / (ranks - 1), 1.0)
        is_hit = hits <= positives
        valid.append(is_valid)
        first.append(ranks[:, 0])
        precision.append((at * is_hit).sum(1) / positives[:, 0])
        trapezoid.append(((at + before) / 2 * is_hit).sum(1) / positives[:, 0])
    return QueryScores(torch.cat(valid), torch.cat(first), torch.cat(precision), torch.cat(trapezoid))


def _ranks(distances: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of the positives at (row, column), which are in order of rows.

    Only values are sorted; each positive finds its rank in them by bisection, which leaves equal distances to count.

    Returns:
        Ranks from 1, ascending, int64 [b, most positives], and positives of each row, int64 [b], after which its ranks
        are void; both on the CPU.
    """
    counts = row.bincount(minlength=len(distances))
    row, number, _ = spans(torch.zeros_like(counts), counts)
    wanted = distances.new_full((len(distances), max(1, int(counts.max()))), torch.inf)
    wanted[row, number] = values = distances[row, column]
    ordered = sorted_rows(distances)
    nearer = torch.searchsorted(ordered, wanted)[row, number]
    equal = torch.searchsorted(ordered, wanted, right=True)[row, number] - nearer
    for tied in (equal > 1).nonzero()[:, 0].split(len(distances)):
        places = (distances[row[tied]] == values[tied, None]).cumsum(1).gather(1, column[tied, None])
        nearer[tied] += places[:, 0] - 1
    ranks = nearer.new_full(wanted.shape, torch.iinfo(torch.int64).max)
    ranks[row, number] = nearer + 1
    return ranks.sort(dim=1).values.cpu(), counts.cpu()


class Ranking(Metric):
    """Rank-1, 5, 10, 20 and mAP of a single query's person in the gallery, see :func:`rank`.

    :meth:`compute` gives ``map`` (plain), ``map_trapezoid`` (official code of Market-1501 and of ECN), ``rank1``,
    ``rank5``, ``rank10``, ``rank20`` in 0..1, and with ``rerank`` the same as ``reranked_map`` and so on. Queries
    without a positive are skipped, and their number is logged. Of equal distances the image comes first that was added
    first; images of several ranks follow each other in the order of the ranks.

    Args:
        distance: "cosine" or "euclidean".
        rerank: Also score k-reciprocal re-ranking.
        block: Queries at once; memory beyond the features grows with ``block`` times the gallery.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    features: list[Tensor]
    person: list[Tensor]
    camera: list[Tensor]
    is_query: list[Tensor]

    def __init__(self, distance: Distance = "cosine", rerank: bool = False, block: int = 256) -> None:
        super().__init__()
        self.distance, self.rerank, self.block = distance, rerank, block
        for state in ("features", "person", "camera", "is_query"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, person: Tensor, camera: Tensor, is_query: Tensor) -> None:
        """Add images: features [B, D], numbers of persons and cameras int64 [B], and which are queries, bool [B]."""
        self.features.append(comparable(features, self.distance))
        self.person.append(person)
        self.camera.append(camera)
        self.is_query.append(is_query)

    def compute(self) -> dict[str, Tensor]:
        """The scores, float64.

        Raises:
            UserError: Features that are not finite.
            DataError: No query has a positive; says why.
        """
        features, person, camera, is_query = map(dim_zero_cat, (self.features, self.person, self.camera, self.is_query))
        is_gallery = ~is_query & (person != JUNK)
        order = torch.cat([is_query.nonzero()[:, 0], is_gallery.nonzero()[:, 0]])
        features, person, camera = features[order], person[order], camera[order]
        queries = int(is_query.sum())
        if not queries or queries == len(order):
            raise DataError(
                f"A ranking needs queries and a gallery, got {queries} queries and {len(order) - queries} gallery "
                "images besides junk: fill both folders, and do not limit the number of test batches."
            )
        _check_features(features)

        labels = person[:queries], camera[:queries], person[queries:], camera[queries:]
        query, gallery = features[:queries], features[queries:]
        scores = rank(squared_distances(query, gallery, self.block), *labels)
        if not scores.valid.any():
            raise DataError(why_nothing_is_found(*(numbers.tolist() for numbers in labels)))
        if skipped := int((~scores.valid).sum()):
            log.warning("%d of %d queries have nobody to find in another camera: left out.", skipped, queries)
        means = scores.means()
        if self.rerank:
            reranked = rank(reranked_distances(features, queries, block=self.block), *labels).means()
            means |= {f"reranked_{name}": value for name, value in reranked.items()}
        return {name: value.to(self.device) for name, value in means.items()}


@torch.no_grad()
def nearest(
    query: Tensor,
    gallery: Tensor,
    k: int,
    distance: Distance = "cosine",
    excluded: Tensor | None = None,
    block: int = 256,
) -> tuple[Tensor, Tensor]:
    """The best of the gallery for each query.

    Args:
        query, gallery: Features [Q, D] and [G, D].
        k: How many.
        distance: "cosine" (1 - cosine, 0..2) or "euclidean".
        excluded: Pairs that do not count, bool [Q, G].
        block: Queries at once.

    Returns:
        Distances, ascending, float32, and places in the gallery, int64, both [Q, min(k, G)]. What is excluded comes
        last, at an infinite distance.
    """
    query, gallery = comparable(query, distance), comparable(gallery, distance)
    found = []
    for number, squared in enumerate(squared_distances(query, gallery, block)):
        if excluded is not None:
            squared.masked_fill_(excluded[number * block : (number + 1) * block], torch.inf)
        found.append(smallest(squared, k))
    values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values / 2 if distance == "cosine" else values.sqrt(), places


def _check_features(features: Tensor) -> None:
    low, high = features.amin(0), features.amax(0)
    if not (low.isfinite() & high.isfinite()).all():
        raise UserError("A ranking needs finite features, got NaN or infinity: the network diverged, lower its lr.")
    if (high - low <= 1e-6 * torch.maximum(-low, high)).all():
        log.warning("All images have the same features: the ranking is the order of the gallery, and means nothing.")
