"""Progress without a terminal, in a file or a cluster's log: a line now and then."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import lightning.pytorch as L
from rich import get_console
from rich.progress import track

from da_lightning.stopping import check
from da_lightning.training.callbacks import StopAtIteration
from da_lightning.training.module import AdaptationModule
from da_lightning.training.phases import Phase

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY, LATER, SETTLED = 30.0, 60.0, 300.0
"""Seconds between two lines at first and later, and when that begins."""


def has_terminal() -> bool:
    """Whether a bar can be drawn: on a terminal, or in a notebook."""
    console = get_console()
    is_terminal = sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
    return is_terminal or console.is_jupyter


class _Clock:
    """Counts what is done, and says when the next line is due."""

    def __init__(self, total: float, done: int = 0) -> None:
        self.total, self.first = total, done
        self.begun = self.said = time.monotonic()

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.said < (EVERY if now - self.begun < SETTLED else LATER):
            return False
        self.said = now
        return True

    def pace(self, done: int) -> str:
        """``", 2.5/s, 3 min 20 s left"``; empty where it is not known yet."""
        seconds = time.monotonic() - self.begun
        if done <= self.first or seconds <= 0:
            return ""
        rate = (done - self.first) / seconds
        left = f", {spoken_time((self.total - done) / rate)} left" if done < self.total < float("inf") else ""
        return f", {rate:.3g}/s{left}"


class ProgressLines(L.Callback):
    """Logs iteration, losses, rate and time left every half minute, later every minute; the first and the last, too.

    Validations and tests get lines while they last that long.
    """

    phase = Phase.WORK

    def __init__(self) -> None:
        self._clock: _Clock | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        if not trainer.is_global_zero:
            return
        done = cast(AdaptationModule, pl_module).iterations_done
        if self._clock is None:
            stops = (c for c in trainer.callbacks if isinstance(c, StopAtIteration))  # type: ignore[attr-defined]
            total = next((stop.length(pl_module) for stop in stops), cast(AdaptationModule, pl_module).total_iters)
            self._clock = _Clock(total, done)
            self._say(trainer, done)
        elif done >= self._clock.total or trainer.should_stop or self._clock.is_due():
            self._say(trainer, done)

    def _say(self, trainer: L.Trainer, done: int) -> None:
        assert self._clock is not None
        losses = _losses(trainer)
        log.info(
            "Iteration %d of %d%s%s.",
            done,
            self._clock.total,
            f": {', '.join(f'{name} {value:.4g}' for name, value in losses.items())}" if losses else "",
            self._clock.pace(done),
        )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer, trainer.num_val_batches)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin(trainer, trainer.num_test_batches)

    def on_validation_batch_end(self, trainer: L.Trainer, *arguments: Any, **options: Any) -> None:
        self._count(trainer, "Validating")

    def on_test_batch_end(self, trainer: L.Trainer, *arguments: Any, **options: Any) -> None:
        self._count(trainer, "Testing")

    def _begin(self, trainer: L.Trainer, lengths: Any) -> None:
        self._evaluated = 0
        self._evaluation = _Clock(sum(lengths) if isinstance(lengths, list) else lengths)

    def _count(self, trainer: L.Trainer, what: str) -> None:
        self._evaluated += 1
        if trainer.is_global_zero and self._evaluation.is_due():
            _say_part(what, self._evaluated, self._evaluation, log.info)


def tracked(trainer: L.Trainer, items: Iterable[T], what: str, total: int, draw: bool = True) -> Iterator[T]:
    """``items`` of a loop of our own, with the progress that the trainer's callbacks stand for: a bar, lines, nothing.

    Args:
        what: Is done with them, for whoever reads it.
        total: Their number.
        draw: Whether a bar may be drawn; while the trainer draws its own, another would not do.
    """
    callbacks = trainer.callbacks if trainer.is_global_zero else []  # type: ignore[attr-defined]
    items = _stoppable(items)
    if any(isinstance(callback, ProgressLines) for callback in callbacks):
        yield from with_lines(items, what, total, log.info)
    elif draw and any(isinstance(callback, L.callbacks.ProgressBar) for callback in callbacks):
        yield from track(items, what, total)
    else:
        yield from items


def _stoppable(items: Iterable[T]) -> Iterator[T]:
    for item in items:
        check()
        yield item


def with_progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The same for a command without a trainer: a bar on a terminal, printed lines elsewhere."""
    if has_terminal():
        return iter(track(items, what, total))
    return with_lines(items, what, total, lambda line, *values: print(line % values, flush=True))


def with_lines(items: Iterable[T], what: str, total: int, say: Callable[..., None]) -> Iterator[T]:
    """``items``, and a line now and then while they last."""
    clock = _Clock(total)
    for done, item in enumerate(items):
        if clock.is_due():
            _say_part(what, done, clock, say)
        yield item


def _say_part(what: str, done: int, clock: _Clock, say: Callable[..., None]) -> None:
    say("%s: %d of %g%s.", what, done, clock.total, clock.pace(done))


def _losses(trainer: L.Trainer) -> dict[str, float]:
    """Of each player what it minimises: its sum, or the only term that it has."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    players: dict[str, list[str]] = {}
    for name in metrics:
        if len(parts := name.split("/")) == 3:
            players.setdefault(parts[1], []).append(name)
    kept = (next((name for name in names if name.endswith("/loss")), names[0]) for names in players.values())
    return {name.removeprefix("train/").removesuffix("/loss"): metrics[name] for name in kept}


def spoken_time(seconds: float) -> str:
    """``3 h 20 min``, ``3 min 20 s`` or ``20 s``."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
