"""Which data a run saw: cheap to know, and different if a file was added, lost or renamed."""

from hashlib import blake2b
from typing import Any

import lightning.pytorch as L


def fingerprints(data: L.LightningDataModule) -> dict[str, dict[str, Any]]:
    """``{"source": {"samples": 2975, "names": "4be1..."}, "target": ..., "tests": {"target": ...}, ...}``.

    ``names`` is a hash of the samples' names in their order; contents are not read.
    """
    sets = {name: getattr(data, name, None) for name in ("source", "target")}
    named = {kind: getattr(data, kind, {}) for kind in ("tests", "validations")}
    return {
        **{name: _fingerprint(dataset) for name, dataset in sets.items() if dataset is not None},
        **{kind: {name: _fingerprint(d) for name, d in datasets.items()} for kind, datasets in named.items()},
    }


def _fingerprint(dataset: Any) -> dict[str, Any]:
    while not _is_named(dataset) and hasattr(dataset, "dataset"):  # what a loader sees is a view of it
        dataset = dataset.dataset
    known: dict[str, Any] = {"samples": len(dataset)}
    if _is_named(dataset):
        names = "\n".join(dataset.name(index) for index in range(len(dataset)))
        known["names"] = blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return known


def _is_named(dataset: Any) -> bool:
    return callable(getattr(dataset, "name", None))
