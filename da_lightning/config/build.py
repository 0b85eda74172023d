"""The one way from a configuration node to an object.

Hydra's ``instantiate`` would do, but for three things: it copies what is already built into a configuration and
back, its blocklist is no boundary, and it tells of a wrong type only in a traceback.
"""

import os
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from da_lightning.arguments import checked_arguments
from da_lightning.data.downloads import Fetched
from da_lightning.errors import UserError

TRUSTED = ("da_lightning", "lightning.pytorch", "torch.nn", "torch.optim", "torchmetrics", "torchvision")
"""Packages a ``_target_`` may come from; ``DA_TRUSTED_PACKAGES=mine,theirs`` adds to them."""


def build(node: DictConfig, key: str, **extra: Any) -> Any:
    """Build the object that ``node._target_`` names, and those inside it, from plain Python values.

    Args:
        node: A node with ``_target_``.
        key: The node's place in the configuration, for messages.
        extra: Keyword arguments that no yaml can hold (loggers, callbacks).

    Raises:
        UserError: A target outside the trusted packages, an unknown option, a value of a wrong type, a missing package.
    """
    plain = OmegaConf.to_container(node, resolve=True)
    try:
        return _build(plain, key, extra)
    except ModuleNotFoundError as error:
        raise UserError(f"{key} needs a package that is not installed: {_first_line(error)}") from None


def _build(node: Any, key: str, extra: dict[str, Any] | None = None) -> Any:
    if isinstance(node, list):
        return [_build(item, f"{key}.{i}") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    options = {name: _build(value, f"{key}.{name}") for name, value in node.items() if name != "_target_"}
    if "_target_" not in node:
        return options
    target = trusted_object(node["_target_"], f"{key}._target_={node['_target_']}")
    made = target(**checked_arguments(target, options | (extra or {}), key))
    return made.folder if isinstance(made, Fetched) else made


def trusted_object(path: str, place: str) -> Any:
    """The object at ``path``; both its written name and the module it really lives in must be trusted.

    The second check matters: ``torch.optim.adam.torch.load`` begins well and ends at ``torch.load``.

    Args:
        path: Its dotted name.
        place: What names it, for messages.

    Raises:
        UserError: It is outside the trusted packages (then nothing is imported), or does not exist.
    """
    _check_trusted(path, place)
    try:
        target = get_object(path)
    except (HydraException, ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{place} cannot be imported ({_first_line(error)}): check its spelling.") from None
    _check_trusted(f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}", place)
    return target


def _check_trusted(name: str, place: str) -> None:
    trusted = (*TRUSTED, *filter(None, os.environ.get("DA_TRUSTED_PACKAGES", "").split(",")))
    if not name.startswith(tuple(f"{package}." for package in trusted)):
        raise UserError(
            f"{place} is {name}, outside the trusted packages {', '.join(trusted)}: "
            "if you trust it, add its package to the environment variable DA_TRUSTED_PACKAGES."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
