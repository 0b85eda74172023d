"""What a method says of its step: who plays, what they minimise, when gradients are made and when weights move."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import PositiveFloat
from torch import Tensor, nn

from da_lightning.training.schedules import Factor, Schedule, constant

Batch = dict[str, dict[str, Tensor]]
"""``{"source": sample, "target": sample}``."""


class Term(NamedTuple):
    """A summand of a loss: ``weight * value``; the value is logged unweighted."""

    value: Tensor
    weight: float = 1.0


class Group(NamedTuple):
    """Parameters of a player with a learning rate, and perhaps a weight decay, of their own.

    Args:
        lr_factor: On the optimiser's learning rate.
        weight_decay: In place of the optimiser's; ``None`` is the optimiser's.
    """

    parameters: list[nn.Parameter]
    lr_factor: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Player:
    """Parameters that one loss moves.

    Args:
        groups: Its parameters.
        optimizer: ``{"name": "SGD", "lr": ..., ...}``, see :func:`~da_lightning.training.optimizers.make_optimizer`.
        clip_norm: Largest gradient norm, after unscaling; ``None`` does not clip.
        schedule: Of its learning rates, see :func:`~da_lightning.training.schedules.make_schedule`.
    """

    groups: Sequence[Group]
    optimizer: Mapping[str, Any]
    clip_norm: PositiveFloat | None = None
    schedule: Schedule = constant()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group.parameters]


class Backward(NamedTuple):
    """These terms of ``player``, backward now: their gradients are added to those that it has.

    Args:
        keep_graph: Whether later terms share a part of the graph, which else is freed.
    """

    player: str
    terms: dict[str, Term]
    keep_graph: bool = False


class Step(NamedTuple):
    """``player`` steps by the gradients that it has, which are gone after it."""

    player: str


Updates = Iterator[Backward | Step]


@dataclass(frozen=True)
class Extension:
    """What follows a method's own ``max_iters``, such as rounds of self-training.

    Args:
        iterations: Its length.
        updates: In place of the method's, from the method and a batch.
        factor: On all learning rates, from the iteration since its beginning.
        fit_epochs: Gives a data module the length of epochs that it needs.
    """

    iterations: int
    updates: Callable[[Any, Batch], Updates]
    factor: Factor
    fit_epochs: Callable[[Any], None]
