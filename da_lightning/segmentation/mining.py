"""Rare-class patch mining of CBST (Zou et al., ECCV 2018): crops centred on the classes the network rarely predicts."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor


class Mining(NamedTuple):
    """What a round's crops look for: class ids as `mining_classes` gives them, and the probability to look at all."""

    priority: Collection[int]
    rare: Collection[int]
    chance: float


def mining_classes(pixel_counts: Tensor, threshold: float = 0.001, rarest: int = 3) -> tuple[list[int], list[int]]:
    """Class ids to mine, from predicted pixels per class [K] (`Thresholds.counts`).

    Returns:
        The priority classes, with a share of all pixels below `threshold`, and the `rarest` rarest classes, rarest
        first; a class that was never predicted counts in both.
    """
    shares = pixel_counts / pixel_counts.sum()
    return (shares < threshold).nonzero()[:, 0].tolist(), pixel_counts.argsort(stable=True)[:rarest].tolist()


def mined_crop(
    label: Tensor, size: tuple[int, int], priority: Collection[int], rare: Collection[int], chance: float = 0.8
) -> tuple[int, int] | None:
    """Top and left of a crop of `size` (height, width) centred on a random pixel of a rare class, or None.

    With probability `chance` a class is drawn uniformly among the `priority` classes present in `label` ([H, W],
    integers), failing these among the `rare` ones. Present means: at a pixel around which the whole crop fits. None
    means that the caller should crop at random. Draws come from torch's global generator.
    """
    height, width = size
    spare_rows, spare_columns = label.shape[0] - height + 1, label.shape[1] - width + 1
    if torch.rand(()) >= chance or min(spare_rows, spare_columns) < 1:
        return None
    centres = label[height // 2 :, width // 2 :][:spare_rows, :spare_columns]
    present = set(centres.unique().tolist())
    drawn_from = sorted(present.intersection(priority)) or sorted(present.intersection(rare))
    if not drawn_from:
        return None
    corners = (centres == drawn_from[torch.randint(len(drawn_from), ())]).nonzero()
    top, left = corners[torch.randint(len(corners), ())].tolist()
    return top, left
