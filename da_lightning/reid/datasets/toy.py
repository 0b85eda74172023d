"""Drawn pedestrians, as a data set."""

import random
from typing import Any, Literal

import torch

from da_lightning.errors import DataError
from da_lightning.reid.datasets.base import DISTRACTOR, JUNK, PersonDataset
from da_lightning.toy.people import Network, render_person


class ToyPeople(PersonDataset):
    """People drawn anew on each reading, the same for the same numbers.

    Each passes two or more of the cameras. ``query`` shows the first picture of everybody under each of these cameras,
    ``gallery`` the other ones, ``train`` all; sets with separate persons have nothing in common.

    Args:
        network: ``street`` or ``station``.
        part: ``train``, ``query`` or ``gallery``.
        persons: Number of persons.
        first_person: Number of the first person, from 1.
        cameras: Number of cameras.
        images_per_camera: Pictures of a person under each camera that sees her.
        distractors: Pictures of people who are in no query; only in the gallery.
        junk: Bad boxes; only in the gallery.
        size: Height and width.
        labelled: Whether items have ``person``.

    Raises:
        DataError: If nobody could be found again.
    """

    def __init__(
        self,
        network: Network,
        part: Literal["train", "query", "gallery"] = "train",
        persons: int = 150,
        first_person: int = 1,
        cameras: int = 4,
        images_per_camera: int = 4,
        distractors: int = 60,
        junk: int = 30,
        size: tuple[int, int] = (64, 32),
        labelled: bool = True,
    ) -> None:
        if cameras < 2 or images_per_camera < 2:
            raise DataError(
                f"Toy people need cameras and images_per_camera of at least 2, got {cameras} and {images_per_camera}."
            )
        self.network, self.size, self.labelled = network, size, labelled
        self.details = {"network": network, "first_person": first_person, "cameras": cameras, "size": size}
        views = {
            "train": range(images_per_camera),
            "query": range(1),
            "gallery": range(1, images_per_camera),
        }[part]
        everyone = range(first_person, first_person + persons)
        self.items = [(p, c, view) for p in everyone for c in self._passed(p, cameras) for view in views]
        if part == "gallery":
            extras = distractors * [DISTRACTOR] + junk * [JUNK]
            self.items += [(p, 1 + i % cameras, i) for i, p in enumerate(extras)]
        self.cameras = [camera for _, camera, _ in self.items]
        self.persons = [person for person, _, _ in self.items] if labelled else []

    def _passed(self, person: int, cameras: int) -> list[int]:
        """The cameras that see a person."""
        rng = random.Random(f"{self.network} {person} passes")
        return sorted(rng.sample(range(1, cameras + 1), rng.randint(2, cameras)))

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        person, camera, view = self.items[index]
        return f"{person:0{4 if person >= 0 else 2}d}_c{camera}s1_{view:06d}_00"

    def __getitem__(self, index: int) -> dict[str, Any]:
        person, camera, view = self.items[index]
        # A stranger has a number nobody else has: below those of junk and distractors.
        shown = person if person > 0 else -2 - view
        image = render_person(shown, camera, view, self.network, self.size, bad_box=person == JUNK)
        item = {"image": torch.tensor(image).permute(2, 0, 1), "camera": camera}
        return item | {"person": person} if self.labelled else item
