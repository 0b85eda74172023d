"""Courses of learning rates by name, from plain numbers, which a checkpoint can hold."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from da_lightning.arguments import Share, checked_arguments
from da_lightning.errors import UserError

Factor = Callable[[int], float]
"""Factor on the learning rate by iteration."""

Schedule = Factor | Mapping[str, Any]
"""The same, or the options of a class of ``torch.optim.lr_scheduler``."""

ScheduleOptions = Mapping[str, Any] | LRScheduler | None
"""What a method's option ``schedule`` holds: a mapping, see :func:`make_schedule`, which may name such a class."""


def constant() -> Factor:
    """1 throughout."""
    return lambda iteration: 1.0


def linear(
    horizon: PositiveInt, warmup: NonNegativeInt = 0, warmup_from: Share = 1e-6, decay_from: NonNegativeInt = 0
) -> Factor:
    """Linear decay from 1 at ``decay_from`` to 0 at ``horizon``, times a linear warm-up from ``warmup_from`` to 1."""

    def factor(iteration: int) -> float:
        decayed = decay(max(0, iteration - decay_from), max(1, horizon - decay_from), power=1.0)
        return decayed if iteration >= warmup else decayed * (1 - (1 - iteration / warmup) * (1 - warmup_from))

    return factor


def poly(horizon: PositiveInt, power: PositiveFloat = 0.9) -> Factor:
    """Polynomial decay from 1 to 0 at ``horizon``."""
    return lambda iteration: decay(iteration, horizon, power)


def steps(
    horizon: PositiveInt,
    factor: NonNegativeFloat = 0.1,
    at: Sequence[Share] = (),
    every: PositiveInt | None = None,
    ahead: NonNegativeInt = 0,
) -> Factor:
    """Times ``factor`` at each share ``at`` of ``horizon``, or ``every`` so many iterations, ``ahead`` of them."""
    if every is not None:
        return lambda iteration: factor ** ((iteration + ahead) // every)
    return lambda iteration: factor ** sum(iteration >= share * horizon for share in at)


def cosine(horizon: PositiveInt, warmup: NonNegativeInt = 0, final: Share = 0.0) -> Factor:
    """Half a cosine from 1 to ``final`` at ``horizon``, times a linear warm-up from 0."""

    def factor(iteration: int) -> float:
        fallen = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / horizon)))
        return fallen if iteration >= warmup else fallen * (iteration + 1) / warmup

    return factor


BY_NAME = {f.__name__: f for f in (constant, linear, poly, steps, cosine)}


def decay(iteration: int, horizon: int, power: float = 0.9) -> float:
    """Polynomial decay from 1 to 0 at ``horizon``."""
    return max(0.0, 1.0 - iteration / horizon) ** power


def make_schedule(options: ScheduleOptions, max_iters: int, own: Schedule | None = None) -> Schedule:
    """What a method's option ``schedule`` means.

    Args:
        options: ``{"name": one of BY_NAME, ...}``, where ``horizon`` is ``max_iters`` if it is left out; or
            ``{"_target_": "torch.optim.lr_scheduler.<class>", ...}``, stepped each iteration; or ``None``.
        max_iters: Length of the training.
        own: The method's own schedule, which ``None`` stands for.

    Raises:
        UserError: An unknown name, class or option.
    """
    if options is None:
        return own or constant()
    if isinstance(options, LRScheduler):
        raise UserError("Expected method.schedule to be a mapping with name or _target_, but found a scheduler.")
    options = dict(options)
    if "_target_" in options:
        given = {name: value for name, value in options.items() if name != "_target_"}
        kind = _kind(options["_target_"])
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        _made(kind, optimizer, checked_arguments(kind, {"optimizer": optimizer, **given}, "method.schedule"))
        return options
    name = options.pop("name", None)
    if name not in BY_NAME:
        raise UserError(
            f"Expected method.schedule.name to be one of {', '.join(BY_NAME)}, or _target_ to name a class of "
            f"torch.optim.lr_scheduler, but found {name!r}: change it."
        )
    if name != "constant":
        options.setdefault("horizon", max_iters)
    schedule: Callable[..., Factor] = BY_NAME[name]
    return schedule(**checked_arguments(schedule, options, "method.schedule"))


def scheduled(optimizer: Optimizer, schedule: Schedule, then: tuple[int, Factor] | None = None) -> LRScheduler:
    """The scheduler of torch that steps ``optimizer`` through ``schedule``.

    Args:
        then: The iteration where another factor takes its place, and that factor from there on.
    """
    if callable(schedule):
        if then is None:
            return LambdaLR(optimizer, schedule)
        own, (end, factor) = schedule, then
        return LambdaLR(optimizer, lambda iteration: own(iteration) if iteration < end else factor(iteration - end))
    options = {name: value for name, value in schedule.items() if name != "_target_"}
    made = _made(_kind(schedule["_target_"]), optimizer, options)
    return made if then is None else SequentialLR(optimizer, [made, LambdaLR(optimizer, then[1])], [then[0]])


def use_present_rates(scheduler: Any) -> None:
    """Give an optimiser the learning rates that its schedule has now, where the schedule is a factor by iteration."""
    if isinstance(scheduler, LambdaLR):
        factors = (factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas)
        for group, rate, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
            group["lr"] = rate * factor


def _kind(target: Any) -> type[LRScheduler]:
    module, _, name = str(target).rpartition(".")
    kind = getattr(torch.optim.lr_scheduler, name, None) if module == "torch.optim.lr_scheduler" else None
    if not (isinstance(kind, type) and issubclass(kind, LRScheduler)) or kind in (LRScheduler, ReduceLROnPlateau):
        raise UserError(
            f"Expected method.schedule._target_ to name a class of torch.optim.lr_scheduler that steps by itself, but "
            f"found {target}: give one such as torch.optim.lr_scheduler.CosineAnnealingWarmRestarts."
        )
    return kind


def _made(kind: type[LRScheduler], optimizer: Optimizer, options: Mapping[str, Any]) -> LRScheduler:
    try:
        return kind(**{**options, "optimizer": optimizer})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{kind.__name__} refuses its options ({error}): change method.schedule.") from None
