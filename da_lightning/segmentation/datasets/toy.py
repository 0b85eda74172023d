"""Drawn streets, as a data set."""

from typing import Literal

import torch
from torch import Tensor

from da_lightning.arguments import Seed
from da_lightning.segmentation.datasets.base import SegmentationDataset
from da_lightning.toy.streets import CLASSES, render_street


class ToyStreets(SegmentationDataset):
    """Streets drawn anew on each reading, the same for the same seed.

    Args:
        style: ``game`` or ``camera``.
        count: Number of images.
        first_seed: Seed of the first image; sets overlap where their seeds do.
        size: Height and width.
        labelled: Whether items have labels.
    """

    def __init__(
        self,
        style: Literal["game", "camera"],
        count: int,
        first_seed: Seed = 0,
        size: tuple[int, int] = (96, 128),
        labelled: bool = True,
    ) -> None:
        self.style, self.seeds, self.size, self.labelled = style, range(first_seed, first_seed + count), size, labelled
        self.num_classes = len(CLASSES)
        self.details = {"style": style, "first_seed": first_seed, "size": size}

    def __len__(self) -> int:
        return len(self.seeds)

    def name(self, index: int) -> str:
        return f"{self.style}_{self.seeds[index]:06d}"

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image, label = render_street(self.seeds[index], self.style, self.size)
        item = {"image": torch.tensor(image).permute(2, 0, 1)}
        return item | {"label": torch.tensor(label)} if self.labelled else item
