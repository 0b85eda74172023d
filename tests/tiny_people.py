"""Persons of a few pixels, for what does not depend on how people look."""

from typing import Any

import torch

from da_lightning.reid.datasets.base import PersonDataset


class TinyPeople(PersonDataset):
    """Noise under the tint of a camera; names have folders."""

    def __init__(self, cameras: list[int], size: tuple[int, int] = (24, 24), labelled: bool = False) -> None:
        self.cameras, self.size, self.labelled = cameras, size, labelled
        self.persons = [7 + index // 2 for index in range(len(cameras))] if labelled else []

    def __len__(self) -> int:
        return len(self.cameras)

    def name(self, index: int) -> str:
        return f"part.{index % 2}/{index:04d}_c{self.cameras[index]}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.rand(3, *self.size, generator=torch.Generator().manual_seed(index))
        image = (noise * 128 + 10 * self.cameras[index]).to(torch.uint8)
        item = {"image": image, "camera": self.cameras[index]}
        return item | {"person": self.persons[index]} if self.labelled else item
