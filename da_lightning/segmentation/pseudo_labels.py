"""Pseudo labels of a target set: self-training (ST) and class-balanced self-training (CBST, Zou et al., ECCV 2018).

With the network fixed, CBST chooses each pixel's one-hot label yhat, or none, to minimise

    sum over pixels of  -yhat . log p  -  k . yhat        (see `objective`)

The second term, the paper's L1 norm with a minus sign, is a reward for selecting: without it "ignore everything" would
be optimal. Its minimiser is `select` with the probability thresholds tau = exp(-k), and `find_thresholds` sets tau so
that a portion of the target pixels, of each class (CBST) or of all together (ST), is selected.

A spatial prior q (see `spatial_prior`) multiplies the probabilities before both, so whoever makes the maps hands over
q * p in place of p; nothing here knows of it.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from da_lightning.errors import UserError
from da_lightning.segmentation.losses import IGNORE

SMALLEST = torch.finfo(torch.float32).tiny  # no threshold is 0, so p / tau is always a number
HIGH_BINS = (int(torch.tensor(1.0).view(torch.int32)) >> 16) + 1  # high halves of the bits of 0..1
LOW_BINS = 1 << 16


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Probability thresholds `tau` (float32 [K], in (0, 1]) and pixels predicted per class `counts` (int64 [K])."""

    tau: Tensor
    counts: Tensor

    @property
    def k(self) -> Tensor:
        """The paper's k = -ln tau, the reward for selecting a pixel of each class."""
        return -self.tau.log()


def find_thresholds(
    maps: Callable[[], Iterable[Tensor]],
    num_classes: int,
    portion: float,
    policy: Literal["class_balanced", "global"] = "class_balanced",
    stride: int = 1,
    reduce: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Thresholds:
    """Exact thresholds in two streaming passes over the target set.

    tau is the confidence of rank floor(n * portion), counted from 1 at the highest, among the n pixels predicted as a
    class ("class_balanced", CBST) or among all pixels ("global", ST, one tau for every class). It is 1 where that rank
    is 0. A pixel's confidence is its highest probability, its predicted class the one that has it.

    The bits of non-negative fp32 numbers sort like the numbers, so a histogram of their high halves and one of the low
    halves inside the bin of the rank find it exactly, by counting. Uniform bins do not: a head class saturates near 1,
    where 1,000 bins select half of it instead of a fifth, and in half precision most of it *is* 1.

    Args:
        maps: Each call is one pass over the target set: float32 probabilities [B, K, H, W] in 0..1, the same each time.
        num_classes: K.
        portion: Share of pixels to select, in (0, 1].
        policy: "class_balanced" or "global".
        stride: Rank only every stride-th pixel of each image and class, in raster order (official code: 4).
        reduce: Sums int64 counts (on the CPU) over ranks; called three times on each, even on one without images.

    Raises:
        UserError: A portion, policy or stride out of range; maps that are not float32, or hold NaN.
    """
    if not 0 < portion <= 1:
        raise UserError(f"The portion of target pixels to select must lie in (0, 1], got {portion}: give e.g. 0.2.")
    if policy not in ("class_balanced", "global"):
        raise UserError(f"The pseudo-label policy must be 'class_balanced' or 'global', got '{policy}': choose one.")
    if stride < 1:
        raise UserError(f"The pseudo-label stride must be at least 1, got {stride}: use 1 to rank every pixel.")
    groups = num_classes if policy == "class_balanced" else 1

    def passing() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for probabilities in maps():
            predicted, keys = _ranking(probabilities)
            kept = _thinned(predicted, stride) if stride > 1 else slice(None)
            group = predicted.flatten()[kept] if groups > 1 else torch.zeros_like(predicted.flatten()[kept])
            yield predicted, group, keys.flatten()[kept]

    counts = torch.zeros(num_classes, dtype=torch.int64)
    high = torch.zeros(groups, HIGH_BINS, dtype=torch.int64)
    for predicted, group, keys in passing():
        counts += class_counts(predicted, num_classes).cpu()
        high += _histogram(group, keys >> 16, high.shape)
    counts, high = reduce(counts), reduce(high)
    rank = torch.tensor([math.floor(n * portion) for n in high.sum(1).tolist()])
    high_bin, rank_inside = _find(high, rank)

    low = torch.zeros(groups, LOW_BINS, dtype=torch.int64)
    for _, group, keys in passing():
        inside = keys >> 16 == high_bin.to(keys.device)[group]
        low += _histogram(group[inside], keys[inside] & (LOW_BINS - 1), low.shape)
    low_bin, _ = _find(reduce(low), rank_inside)

    tau = (high_bin << 16 | low_bin).int().view(torch.float32).where(rank > 0, 1.0)
    return Thresholds(tau.expand(num_classes).clone(), counts)


def select(probabilities: Tensor, tau: Tensor) -> Tensor:
    """Pseudo labels int64 [B, H, W]: the argmax of p / tau where that ratio is at least 1, else 255.

    In CBST it can differ from the argmax of p: rare classes win where tau favours them. In ST it is the argmax of p.
    """
    # A correctly rounded p / tau is >= 1 exactly where p >= tau, so ties with the threshold are always in.
    ratio, labels = (probabilities / tau.to(probabilities.device)[:, None, None]).max(dim=1)
    return labels.where(ratio >= 1, IGNORE)


def objective(probabilities: Tensor, labels: Tensor, tau: Tensor) -> Tensor:
    """What `select` minimises, per pixel, float32 [B, H, W]: -ln p - k of the labelled class, 0 where ignored (255)."""
    ignored = labels == IGNORE
    labels = labels.masked_fill(ignored, 0)
    p = probabilities.gather(1, labels[:, None])[:, 0]
    return (tau.to(p.device)[labels].log() - p.log()).masked_fill(ignored, 0)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Pixels per class, int64 [K], of integer label maps of any shape; ignored pixels (255) are not counted."""
    return labels[labels < num_classes].bincount(minlength=num_classes)


def realised_shares(selected: Tensor, predicted: Tensor) -> Tensor:
    """Selected pixels over predicted pixels per class, float32 [K], from `class_counts` summed over the target set.

    In ST only their total is the portion (up to ties and rounding). In CBST each one is near it, and off by the pixels
    that classes win from each other. It is 0 for a class that was never predicted.
    """
    return selected / predicted.clamp(min=1)


def _ranking(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class int64 [B, H, W], and confidence as the integer int32 [B, H, W] that sorts like it."""
    if probabilities.dtype != torch.float32:
        raise UserError(
            f"Thresholds need float32 probabilities, got {probabilities.dtype}: half precision rounds confident pixels "
            "to 1, so take the softmax of logits.float()."
        )
    confidence, predicted = probabilities.max(dim=1)
    if confidence.isnan().any():
        raise UserError("Pseudo labels need probabilities in 0..1, got NaN: the network diverged, lower its lr.")
    # Interpolated probabilities can overshoot 0..1 a little.
    return predicted, confidence.clamp(SMALLEST, 1).view(torch.int32)


def _thinned(predicted: Tensor, stride: int) -> Tensor:
    """Flat indices of every stride-th pixel of each image and class, in raster order."""
    image = torch.arange(len(predicted), device=predicted.device)[:, None, None]
    image_class = (predicted + (predicted.max() + 1) * image).flatten()
    return torch.cat([(image_class == value).nonzero()[::stride, 0] for value in image_class.unique()])


def _histogram(rows: Tensor, columns: Tensor, shape: torch.Size) -> Tensor:
    return (rows * shape[1] + columns).bincount(minlength=shape[0] * shape[1]).view(shape).cpu()


def _find(histogram: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of each row that holds its rank-th highest value (from 1), and the rank of that value in the bin."""
    descending = histogram.flip(1)
    at_least = descending.cumsum(1)
    place = torch.searchsorted(at_least, rank[:, None])
    above = (at_least - descending).gather(1, place)
    return histogram.shape[1] - 1 - place[:, 0], rank - above[:, 0]
