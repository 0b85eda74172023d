"""Private functions of Hydra that we replace. It has no hooks for loading, recording or running a configuration."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import hydra._internal.utils
import hydra.core.utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_repository import IConfigRepository as Repository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault as Default
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

__all__ = ["Default", "Repository"]  # types, handed on


def command_line(arguments: Sequence[str]) -> Namespace:
    """Hydra's reading of a command: it alone knows which words are values of its flags, and which are overrides."""
    return hydra._internal.utils.get_args_parser().parse_known_args(list(arguments))[0]


def parsed(words: Sequence[object], loader: ConfigLoader | None = None) -> list[Override] | None:
    """Overrides as Hydra parses them; ``None`` where one is malformed, which Hydra reports in its own words.

    Args:
        words: Like ``seed=1,2``.
        loader: Knows which words are groups of the configuration.
    """
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides([str(word) for word in words])
    except HydraException:
        return None


def sweep_jobs(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job of Hydra's own sweeper, which makes them only when it has begun to sweep."""
    return [job for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]


def wrap(kind: type, name: str, around: Callable[..., Any]) -> None:
    """Let ``around(original, self, ...)`` be called in the place of a method, and of what an earlier call put there."""
    found = getattr(kind, name)
    original = getattr(found, "replaces", found)

    @wraps(original)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        return around(original, self, *arguments, **options)

    wrapped.replaces = original  # type: ignore[attr-defined]
    setattr(kind, name, wrapped)


LOADING = (
    (ConfigRepository, "load_config"),
    (ConfigLoaderImpl, "_load_single_config"),
    (ConfigLoaderImpl, "_load_configuration_impl"),
)
"""Where Hydra reads a file, puts it at its place in the configuration, and composes the whole.

It acts on ``hydra.*`` (environment, callbacks, log handlers) before any code of ours runs, and composes again in the
processes of a sweep's jobs.
"""


def record_by(write: Callable[[DictConfig, str, Path], None]) -> None:
    """Write ``.hydra/*.yaml`` by ``write``.

    Hydra's own leaves half a file on a full disk, which no later resume=auto could read, and a traceback.
    """
    hydra.core.utils._save_config = write  # type: ignore[assignment]


def run_inside(around: Callable[[Callable[..., Any], Callable[[], Any]], Any]) -> None:
    """Run what Hydra runs by ``around(original, function)``: its errors come before any code of ours could catch them.

    A run folder that cannot be made, for one.
    """
    original = hydra._internal.utils.run_and_report
    hydra._internal.utils.run_and_report = lambda func: around(original, func)
