"""Scores of a network on images without labels, by which weights can be selected."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

SelectionScore = Literal["entropy", "snd", "source", "oracle"]


class _Mean(Metric):
    full_state_update = False
    is_differentiable = False

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        return self.total / self.count


class MeanEntropy(_Mean):
    """Mean entropy of class probabilities over the logarithm of their number, 0 (certain) to 1 (uniform)."""

    higher_is_better = False

    def update(self, probabilities: Tensor) -> None:
        """Add float probabilities [B, K, ...] that sum to 1 over the second dimension."""
        entropies = torch.special.entr(probabilities.float()).sum(1)
        self.total += entropies.sum() / torch.tensor(float(probabilities.shape[1])).log()
        self.count += entropies.numel()


class PixelNeighbourhoodDensity(_Mean):
    """Soft neighbourhood density of the pixels of an image, mean over images (Saito et al., ICCV 2021).

    Memory does not grow with the number of images.

    Args:
        temperature: tau of :func:`neighbourhood_entropy`.
        pixels: Of each image, the same each time; as many as the official code draws.
    """

    higher_is_better = True

    def __init__(self, temperature: float = 0.05, pixels: int = 100) -> None:
        super().__init__()
        self.temperature, self.pixels = temperature, pixels

    def update(self, probabilities: Tensor) -> None:
        """Add float probabilities [B, K, H, W]."""
        maps = probabilities.flatten(2)
        # Drawn, not spaced evenly, which would meet columns of the image; and alike for all weights that are compared.
        drawn = torch.randperm(maps.shape[2], generator=torch.Generator().manual_seed(0))[: self.pixels]
        for image in maps[:, :, drawn.to(maps.device)].transpose(1, 2):
            self.total += neighbourhood_entropy(image, self.temperature).mean()
        self.count += len(maps)


class NeighbourhoodDensity(Metric):
    """Soft neighbourhood density of a set of features (Saito et al., ICCV 2021).

    It is that of a sample of the set, which depends neither on the order of the set nor on the ranks it is spread over.

    Args:
        temperature: tau of :func:`neighbourhood_entropy`.
        capacity: Size of the sample, which bounds the memory; smaller sets are taken whole.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    features: list[Tensor]
    keys: list[Tensor]

    def __init__(self, temperature: float = 0.05, capacity: int = 4096) -> None:
        super().__init__()
        self.temperature, self.capacity = temperature, capacity
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("keys", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, index: Tensor) -> None:
        """Add features [B, D]; ``index``, int64 [B], numbers them over the whole set."""
        keys = index * 2_654_435_761 % 2**32  # Knuth's hash: the smallest keys are spread over the set
        features, keys = self._sample([*self.features, features.float()], [*self.keys, keys])
        self.features, self.keys = [features], [keys]

    def compute(self) -> Tensor:
        features, keys = self._sample([dim_zero_cat(self.features)], [dim_zero_cat(self.keys)])
        return neighbourhood_entropy(features, self.temperature).mean()

    def _sample(self, features: list[Tensor], keys: list[Tensor]) -> tuple[Tensor, Tensor]:
        joined = torch.cat(keys)
        smallest = joined.argsort()[: self.capacity]
        return torch.cat(features)[smallest], joined[smallest]


def neighbourhood_entropy(features: Tensor, temperature: float, block: int = 1024) -> Tensor:
    """Entropy [N] of each sample's soft neighbourhood, 0 (one neighbour) to log(N - 1) (all others alike).

    A neighbourhood is the softmax over all other samples of the cosine similarity over ``temperature``.

    Args:
        features: [N, D], of any lengths.
        temperature: Above 0.
        block: Samples at once; memory grows with ``block`` times N.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float())
        entropies = []
        for start in range(0, len(features), block):
            part = features[start : start + block]
            similarity = part @ features.T / temperature
            similarity.diagonal(start).fill_(-torch.inf)
            entropies.append(torch.special.entr(similarity.softmax(1)).sum(1))
    return torch.cat(entropies)
