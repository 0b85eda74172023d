"""Optimisers from plain numbers, which a checkpoint can hold."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from da_lightning.arguments import checked_arguments
from da_lightning.errors import UserError
from da_lightning.training.players import Group


def make_optimizer(groups: Sequence[Group], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build an optimiser of ``torch.optim``.

    Args:
        groups: Parameters, with what of them differs from ``options``.
        options: ``name`` (a class of ``torch.optim``), ``lr``, and whatever else that class takes.

    Raises:
        UserError: An unknown class or option, or a value that the class refuses.
    """
    options = dict(options)
    if missing := {"name", "lr"} - options.keys():
        raise UserError(f"An optimiser of method has no {min(missing)}: give both name and lr.")
    name, lr = options.pop("name"), options.pop("lr")
    kind = getattr(torch.optim, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)) or kind is torch.optim.LBFGS:
        raise UserError(f"method.*.name={name} is no optimiser of torch.optim that we can step: use SGD, Adam, ...")
    checked_arguments(kind, {"params": [], "lr": lr, **options}, f"the {name} optimiser")
    if not lr >= 0:  # torch would not look at the rates of groups
        raise UserError(f"Expected a learning rate of at least 0 for {name}, but found {lr}: change method.*.lr.")
    try:
        optimizer = kind([_group(group, lr) for group in groups if group.parameters], **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"The {name} optimiser refuses its options ({error}): change them.") from None
    if options.get("fused"):
        optimizer.register_step_pre_hook(_lay_as_weights)
        if isinstance(optimizer, torch.optim.Adam):  # SGD would lay its momentum as the gradient seems to lie
            optimizer.register_step_pre_hook(_show_contiguous)
            optimizer.register_step_post_hook(_show_as_weights)
    return optimizer


def _group(group: Group, lr: float) -> dict[str, Any]:
    own = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
    return {"params": group.parameters, "lr": lr * group.lr_factor, **own}


def optimizer_options(shared: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """A player's ``own`` options, and those of ``shared`` that it leaves out, unless it names a class of its own.

    Raises:
        UserError: See :func:`make_optimizer`; here, so that it comes before any training.
    """
    own = own or {}
    options = own if "name" in own else {**shared, **own}
    make_optimizer([Group([nn.Parameter(torch.zeros(1))])], options)
    return options


def _lay_as_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused steps take all tensors as they lie in memory: moments of another layout, from a checkpoint, too."""
    for weight, gradient in _gradients(optimizer):
        if gradient.stride() != weight.stride():
            weight.grad = torch.empty_like(weight).copy_(gradient)
        state = optimizer.state[weight]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight).copy_(value)


def _show_contiguous(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """On CPUs a gradient that is not contiguous would be copied, and the copy not looked at; GPUs want one layout."""
    for weight, gradient in _gradients(optimizer):
        if weight.device.type == "cpu":
            weight.grad = gradient.as_strided(weight.shape, torch.empty(weight.shape, device="meta").stride())


def _show_as_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for weight, gradient in _gradients(optimizer):
        weight.grad = gradient.as_strided(weight.shape, weight.stride())


def _gradients(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                yield weight, weight.grad
