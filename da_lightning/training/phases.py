"""In which order callbacks act in a hook of Lightning's: by phase, and inside of a phase as they are configured."""

from collections.abc import Iterable
from enum import IntEnum

import lightning.pytorch as L


class Phase(IntEnum):
    """When a callback acts; a class of ours names its own as ``phase``.

    Lightning adds the callbacks of ``configure_callbacks`` behind ``WORK``, and moves all checkpoints behind those.
    """

    AVERAGE = 0
    """The average takes the place of the weights when training ends, before anything is written from them."""
    SIGNALS = 1
    """A signal that has come stops the run before others begin their work."""
    WORK = 2
    """All else, and all callbacks of other packages but checkpoints, as they are configured.

    ``stop`` is configured before ``pictures`` and ``progress``, which ask it whether the last batch is done.
    """
    SELECTION = 3
    """The epoch's weights are scored before ``last.ckpt`` is written, which holds what was decided."""
    CHECKPOINT = 4
    """``last.ckpt`` holds the states of all others."""


def phase_of(callback: L.Callback) -> Phase:
    """The phase that the class of ``callback`` names, or that it has by what it does."""
    default = Phase.CHECKPOINT if isinstance(callback, L.callbacks.Checkpoint) else Phase.WORK
    named = getattr(callback, "phase", None)
    return named if isinstance(named, Phase) else default


def in_phases(callbacks: Iterable[L.Callback]) -> list[L.Callback]:
    """``callbacks`` in the order in which they act."""
    return sorted(callbacks, key=phase_of)
