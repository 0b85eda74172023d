"""The one way from a configuration node to an object.

Hydra's ``instantiate`` would do, but for three things: it copies what is already built into a configuration and
back, it builds whatever can be called, and it tells of a wrong type only in a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig, OmegaConf
from torch.optim.lr_scheduler import LRScheduler

from da_lightning.arguments import checked_arguments, option_hints
from da_lightning.config.recipes import check_download, check_written
from da_lightning.config.roles import class_of_role, roles_of_hint, roles_of_place
from da_lightning.config.secrets import hidden, hide_hyperparameters, logger_options
from da_lightning.data.downloads import Fetched
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import UserError
from da_lightning.networks.base import Network
from da_lightning.training.module import AdaptationModule

WRITERS = (L.Callback, Logger, Profiler, Strategy, L.Trainer)
"""Roles that write files where their options say."""


@dataclass
class _Plan:
    """An object to be built: everything about it has been looked at, and nothing of it exists yet."""

    kind: type
    options: dict[str, Any]
    key: str


def build(node: DictConfig, key: str, **extra: Any) -> Any:
    """Build the object that ``node._target_`` names, and those inside it, from plain Python values.

    All targets are looked at before the first of them is built, see :mod:`da_lightning.config.roles`.

    Args:
        node: A node with ``_target_``.
        key: The node's place in the configuration; it says what role the object must have.
        extra: Keyword arguments that no yaml can hold (loggers, callbacks).

    Raises:
        UserError: A target without the role, an unknown option, a value of a wrong type, a missing package.
    """
    with _installed(key):
        return _made(_plan(node, key), extra)


def build_method(node: DictConfig, data: L.LightningDataModule) -> AdaptationModule:
    """The same of a method: what it leaves open and the data say, see :class:`~da_lightning.data.facts.DataFacts`.

    Raises:
        UserError: See :func:`build`; the method reads a source, and there is none.
    """
    with _installed("method"):
        plan = _plan(node, "method")
        if isinstance(data, SourceTargetDataModule):
            if plan.kind.needs_source and data.source is None:
                raise UserError(
                    f"Expected a source, which {plan.kind.__name__} trains on, but found data.source=null: let "
                    "data.source be a data set, or choose a method that trains on the target alone."
                )
            plan.options.update(data.facts.options(plan.kind, plan.options))
        return _made(plan)


@contextmanager
def _installed(key: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{key} needs a package that is not installed: {first}") from None


def _plan(node: DictConfig, key: str) -> Any:
    plain = OmegaConf.to_container(node, resolve=True)
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise UserError(f"{key} has no _target_: name the class that is to be built there.")
    return _planned(plain, key, roles_of_place(key))


def check_targets(cfg: DictConfig, prefix: str = "") -> None:
    """Look at all targets of a run or a stage, so that none is refused after others have been built and trained.

    Args:
        cfg: The whole configuration.
        prefix: What comes before the keys in messages: ``stages.translator.``.

    Raises:
        UserError: See :func:`build`.
    """
    places = {key: cfg.get(key) for key in ("data", "method", "trainer", "logger", "selection")}
    places |= {f"callbacks.{name}": node for name, node in cfg.callbacks.items()}
    for key, node in places.items():
        if node:
            _planned(OmegaConf.to_container(node, resolve=True), f"{prefix}{key}", roles_of_place(key))


def _planned(node: Any, key: str, wanted: tuple[type, ...]) -> Any:
    """``node`` with plans in the place of what is to be built."""
    if isinstance(node, list):
        return [_planned(item, f"{key}.{number}", wanted) for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {name: _planned(value, f"{key}.{name}", wanted) for name, value in node.items()}
    name = node["_target_"]
    kind = class_of_role(name, wanted, f"{key}._target_={hidden(name)}")
    if issubclass(kind, LRScheduler):  # it needs an optimiser: see training.schedules
        return node
    options = {option: value for option, value in node.items() if option != "_target_"}
    for option in options:
        if str(option).startswith("_"):  # of Hydra's instantiate: _args_, _partial_, ...
            raise UserError(f"{key}.{option} is no option of {kind.__name__}: take it out.")
    if issubclass(kind, WRITERS):
        check_written(options, key)
    if issubclass(kind, Logger):
        options = logger_options(options)
    if issubclass(kind, Fetched):
        check_download(options, key)
    hints = option_hints(kind)
    planned = {str(o): _planned(value, f"{key}.{o}", roles_of_hint(hints.get(str(o)))) for o, value in options.items()}
    return node if issubclass(kind, Network) else _Plan(kind, planned, key)  # its method builds it: see networks.base


def _made(plan: Any, extra: dict[str, Any] | None = None) -> Any:
    if isinstance(plan, list):
        return [_made(item) for item in plan]
    if isinstance(plan, dict):
        return {name: _made(value) for name, value in plan.items()}
    if not isinstance(plan, _Plan):
        return plan
    options = _made(plan.options) | (extra or {})
    made = plan.kind(**checked_arguments(plan.kind, options, plan.key))
    if isinstance(made, L.LightningModule):
        hide_hyperparameters(made)
    return made.folder if isinstance(made, Fetched) else made
