"""What is recorded of the data that a run saw."""

from typing import Any, cast

import torch
from torch.utils.data import TensorDataset

from da_lightning.data.fingerprints import fingerprints
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.reid.camera_style import OneCamera
from da_lightning.reid.datasets import ToyPeople


class Nameless(TensorDataset):
    name = "a word, and no function of an index"


def fingerprint(dataset: Any) -> dict[str, Any]:
    return cast(dict, fingerprints(SourceTargetDataModule(dataset, dataset, batch_size=1))["source"])


def test_a_part_of_a_set_is_another_set() -> None:
    people = ToyPeople("street", persons=3)
    one, two = (fingerprint(OneCamera(people, camera)) for camera in (1, 2))
    assert one["samples"] == people.cameras.count(1) < len(people)
    assert len({one["names"], two["names"], fingerprint(people)["names"]}) == 3


def test_a_set_without_names_is_counted() -> None:
    assert fingerprint(Nameless(torch.zeros(5, 1))) == {"samples": 5}
