"""What a checkpoint records of its run, held against that of the run that continues it."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from da_lightning.data.fingerprints import fingerprints
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import CheckpointError
from da_lightning.training.module import AdaptationModule

log = logging.getLogger(__name__)

_WORDS = {
    "seed": "seed",
    "source": "the source",
    "target": "the target",
    "batch_size": "data.batch_size",
    "devices": "the number of devices",
    "epoch_length": "the iterations of an epoch",
    "accumulate": "method.accumulate",
    "method": "the method",
}
"""What is compared, and what messages call it."""


def run_record(
    method: str | None,
    module: AdaptationModule,
    data: L.LightningDataModule,
    seed: int,
    devices: int,
    epoch_length: Callable[[SourceTargetDataModule], int],
) -> dict[str, Any]:
    """What of a run decides which batches it sees, in plain values.

    Args:
        method: Its name; ``None`` for a stage, which goes by the name of the method that it is for.
        epoch_length: Gives the iterations of an epoch, once the method has said how long it needs them.
    """
    record: dict[str, Any] = {"method": method, "seed": seed, "devices": devices, "accumulate": module.accumulate}
    if isinstance(data, SourceTargetDataModule):
        record["is_epoch_length_set"] = data.iterations_per_epoch is not None
        module.fit_epochs(data)
        record |= {"batch_size": list(data.batch_sizes.values()), "epoch_length": epoch_length(data)}
    return record | fingerprints(data)


def differences(recorded: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs between two records, by name, in words: what it was and what it is."""
    found = {
        name: (_worded(name, recorded[name]), _worded(name, own[name]))
        for name in _WORDS
        if name in recorded and name in own and recorded[name] != own[name]
        if name != "method" or None not in (recorded[name], own[name])
    }
    is_set = recorded.get("is_epoch_length_set"), own.get("is_epoch_length_set")
    if is_set == (False, False) and found.keys() & {"source", "target", "batch_size", "devices"}:
        found.pop("epoch_length", None)  # it follows from these
    return found


def check_unchanged(
    path: str | Path, recorded: Any, own: Mapping[str, Any], accepted: Collection[str], is_automatic: bool
) -> None:
    """Hold the record of the checkpoint at ``path`` against that of the run that would continue it.

    Args:
        recorded: The checkpoint's; older checkpoints have none, and are taken as they are.
        accepted: Names of what may differ.
        is_automatic: Whether ``resume=auto`` found the checkpoint.

    Raises:
        CheckpointError: Something else differs.
    """
    try:
        recorded = json.loads(json.dumps(recorded, default=str))  # of a stranger's file, anything
    except (ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict):
        log.info("%s does not record what its run was, so that changes since then cannot be seen.", path)
        return
    found = differences(recorded, own)
    told = {}
    for name, (was, now) in found.items():
        verbs = ("were", "are") if name == "epoch_length" else ("was", "is")
        told[name] = f"{_WORDS[name]} {verbs[0]} {was} and {verbs[1]} {now}"
    if refused := [name for name in found if name not in accepted]:
        instead = "resume=never" if is_automatic else f"method.init_from={path}"
        raise CheckpointError(
            f"{path} is of another run ({', '.join(told[name] for name in refused)}): give what it had, or continue "
            f"with the change by accept_changes=[{','.join([*accepted, *refused])}], or begin a new run with {instead}."
        )
    if told:
        log.info("Accepted in continuing %s: %s.", path, ", ".join(told.values()))


def _worded(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        details = ", ".join(f"{key} {_worded('', part)}" for key, part in value.items() if key != "samples")
        return f"{value.get('samples')} samples" + (f" ({details})" if details else "")
    if name == "batch_size" and isinstance(value, list) and len(set(map(str, value))) == 1:
        return str(value[0])
    return "none" if value is None else " ".join(str(value).split())[:100]
