"""Which data a run saw: cheap to know, and different if a file was added, lost or renamed."""

import json
from hashlib import blake2b
from typing import Any

import lightning.pytorch as L


def fingerprints(data: L.LightningDataModule) -> dict[str, dict[str, Any] | None]:
    """``{"source": {"samples": 2975, "names": "4be1..."}, "target": ..., "tests": {"target": ...}, ...}``.

    ``names`` is a hash of the samples' names in their order, which do not say where the folder lies; contents are not
    read. A set whose names do not say all, such as a drawn one, has the rest as ``details``, a dict of plain values:
    it is recorded beside. A source that is left out is ``None``.
    """
    sets = {name: getattr(data, name) for name in ("source", "target") if hasattr(data, name)}
    named = {kind: getattr(data, kind, {}) for kind in ("tests", "validations")}
    return {
        **{name: None if dataset is None else _fingerprint(dataset) for name, dataset in sets.items()},
        **{kind: {name: _fingerprint(d) for name, d in datasets.items()} for kind, datasets in named.items()},
    }


def _fingerprint(dataset: Any) -> dict[str, Any]:
    details = _details(dataset)
    while not _is_named(dataset) and hasattr(dataset, "dataset"):  # what a loader sees is a view of it
        dataset = dataset.dataset
    known: dict[str, Any] = {"samples": len(dataset)}
    if _is_named(dataset):
        names = "\n".join(dataset.name(index) for index in range(len(dataset)))
        known["names"] = blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return known | details


def _details(dataset: Any) -> dict[str, Any]:
    """The ``details`` of a set and of those that it is a part of or made from, as JSON has it."""
    inner = [getattr(dataset, name) for name in ("dataset", "query", "gallery") if hasattr(dataset, name)]
    found = {key: value for one in inner for key, value in _details(one).items()}
    own = getattr(dataset, "details", None)
    return found | (json.loads(json.dumps(own, default=str)) if isinstance(own, dict) else {})


def _is_named(dataset: Any) -> bool:
    return callable(getattr(dataset, "name", None))
