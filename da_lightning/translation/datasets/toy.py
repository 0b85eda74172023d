"""Drawn shoes, as a data set."""

from typing import Any

import torch

from da_lightning.arguments import Seed
from da_lightning.toy.shoes import Style, render_shoe
from da_lightning.translation.datasets.base import ImageDataset


class ToyShoes(ImageDataset):
    """Shoes drawn anew on each reading, the same for the same seed.

    Args:
        style: ``drawing`` or ``photo``.
        count: Number of images.
        first_seed: Seed of the first image; sets overlap where their seeds do.
        size: Height and width.
    """

    def __init__(self, style: Style, count: int, first_seed: Seed = 0, size: tuple[int, int] = (64, 64)) -> None:
        self.style, self.seeds, self.size = style, range(first_seed, first_seed + count), size
        self.details = {"style": style, "first_seed": first_seed, "size": size}

    def __len__(self) -> int:
        return len(self.seeds)

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of all images, which is one."""
        return {(self.size[0], self.size[1])}

    def name(self, index: int) -> str:
        return f"{self.style}_{self.seeds[index]:06d}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.tensor(render_shoe(self.seeds[index], self.style, self.size)).permute(2, 0, 1)}
