"""What may change between a run and its continuation, where ``accept_changes=`` names it."""

from collections.abc import Collection
from typing import Any

from da_lightning.errors import UserError

OPTIONS = {
    "seed": ("seed",),
    "source": ("data.source", "data.root", "data.files", "data.cameras"),
    "target": ("data.target", "data.root", "data.files", "data.cameras"),
    "batch_size": ("data.batch_size", "data.target_batch_size"),
    "devices": ("trainer", "trainer.devices", "trainer.num_nodes", "trainer.accelerator"),
    "epoch_length": ("data.iterations_per_epoch", "data.mode", "trainer.limit_train_batches"),
    "accumulate": ("method.accumulate",),
    "method": (),
}
"""By name: the options that set it. Those below an option belong to it, as ``data.source.root`` to ``data.source``."""


def accepted_changes(value: Any) -> list[str]:
    """The names in ``accept_changes=``, a list, one name, or ``null``; an option stands for the name that it sets.

    Raises:
        UserError: A name that is none of :data:`OPTIONS`.
    """
    words = [] if value is None else [value] if isinstance(value, str) else list(value)
    names = []
    for word in map(str, words):
        known = [word] if word in OPTIONS else [name for name in OPTIONS if word and sets(word, [name])]
        if not known:
            raise UserError(
                f"accept_changes names {word}, which is nothing that a run records: give some of "
                f"{', '.join(OPTIONS)}, as in accept_changes=[seed,devices]."
            )
        names += [name for name in known if name not in names]
    return names


def sets(option: str, names: Collection[str]) -> bool:
    """Whether ``option`` (``data.source.root``) is one of those that set something of these ``names``."""
    options = [own for name in names for own in OPTIONS[name]]
    return any(option == own or (own != "trainer" and option.startswith(f"{own}.")) for own in options)
