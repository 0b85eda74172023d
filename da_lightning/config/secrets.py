"""Environment variables in what is recorded: their names stay, their values do not get there.

A value that came into a configuration by ``${oc.env:NAME}`` is remembered here, and is put back to that text wherever
the configuration, or a line about it, is written down. Variables that begin with ``DA_`` are ours and hide nothing.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from omegaconf import Container, DictConfig, Node, OmegaConf
from omegaconf.resolvers import oc

OURS = "DA_"
LENGTH = 4
"""Shorter values are hidden in the configuration alone: elsewhere they would be found in every other word."""

_names: dict[str, str] = {}  # by value
_keeps_text = False


def env(key: str, *default: Any) -> Any:
    """``${oc.env:NAME}``, ``${oc.env:NAME,default}``: OmegaConf's, which remembers what it has given away."""
    if key not in os.environ or key.startswith(OURS):
        return oc.env(key, *default)
    _remember(key, os.environ[key])
    return f"${{oc.env:{key}}}" if _keeps_text else os.environ[key]


def decode(expr: str | None, _parent_: Container, _node_: Node) -> Any:
    """``${oc.decode:...}``: OmegaConf's; the parts of what it makes of a hidden value are hidden, too."""
    decoded = oc.decode(expr, _parent_, _node_)
    names = [name for value, name in _names.items() if value and expr and value in expr]
    for leaf in _leaves(decoded) if names else ():
        _remember(names[0], str(leaf))
    return decoded


def _remember(name: str, value: str) -> None:
    # Lines of it, and what a path makes of it, occur in messages.
    for form in (value, str(Path(value)), *value.splitlines()):
        if len(form.strip()) >= LENGTH:
            _names.setdefault(form, name)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping | DictConfig):
        for key, part in value.items():
            yield from (key, *_leaves(part))
    elif isinstance(value, str) or not hasattr(value, "__iter__"):
        yield value
    else:
        for part in value:
            yield from _leaves(part)


def hidden(value: Any, numbers: bool = True) -> Any:
    """``value``, at any depth, with ``${oc.env:NAME}`` in the place of values of environment variables.

    Args:
        value: Text, a path, a number, or containers of such.
        numbers: Whether numbers are looked at; where their types count, they are not.
    """
    if isinstance(value, Mapping):
        return {hidden(key, numbers): hidden(part, numbers) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(hidden(part, numbers) for part in value)
    if isinstance(value, bool) or not isinstance(value, str | PurePath | int | float):
        return value
    if isinstance(value, int | float) and not (numbers and str(value) in _names):
        return value
    text = str(value)
    for known in sorted(_names, key=len, reverse=True):
        text = text.replace(known, f"${{oc.env:{_names[known]}}}")
    return text if text != str(value) else value


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as it is written down: resolved, but for environment variables."""
    global _keeps_text
    _keeps_text = True
    try:
        return hidden(OmegaConf.to_container(cfg, resolve=True))
    except Exception:  # a resolver that cannot work on the text: of a file that the variable names, for one
        _keeps_text = False
        return hidden(OmegaConf.to_container(cfg, resolve=True))
    finally:
        _keeps_text = False


def logger_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a logger: names and tags are records; an account that ``WANDB_ENTITY`` names is needed as it is."""
    entity = options.get("entity")
    kept = {"entity": entity} if entity is not None and entity == os.environ.get("WANDB_ENTITY") else {}
    return {**hidden(options), **kept}


def hide_hyperparameters(module: Any) -> None:
    """What checkpoints and loggers hold of a method's options; numbers stay, since prediction needs their types."""
    from da_lightning.private.lightning import hyperparameters_of  # heavy, and this is imported for --help

    for parameters in hyperparameters_of(module):
        for name, value in parameters.items():
            parameters[name] = hidden(value, numbers=False)


class _Formatter(logging.Formatter):
    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return hidden(self._inner.format(record))


def hide_in_logs() -> None:
    """Lines of the log, which W&B captures, go through :func:`hidden`."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, _Formatter):
            handler.setFormatter(_Formatter(handler.formatter or logging.Formatter()))
