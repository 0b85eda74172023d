"""Optimisers and schedules from plain numbers, which a checkpoint can hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from da_lightning.arguments import checked_arguments
from da_lightning.errors import UserError


def make_optimizer(
    groups: Sequence[tuple[float, list[nn.Parameter]]], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Build an optimiser of ``torch.optim``.

    Args:
        groups: Factors on the learning rate, and the parameters each applies to.
        options: ``name`` (a class of ``torch.optim``), ``lr``, and whatever else that class takes.

    Raises:
        UserError: An unknown class or option.
    """
    options = dict(options)
    name = options.pop("name")
    kind = getattr(torch.optim, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UserError(f"method.*.name={name} is no optimiser of torch.optim: use SGD, Adam, AdamW, ...")
    checked_arguments(kind, {"params": [], **options}, f"the {name} optimiser")
    lr = options.pop("lr")
    return kind([{"params": p, "lr": lr * factor} for factor, p in groups if p], **options)


def poly(iteration: int, horizon: int, power: float = 0.9) -> float:
    """Polynomial decay from 1 to 0 at ``horizon``."""
    return max(0.0, 1.0 - iteration / horizon) ** power
