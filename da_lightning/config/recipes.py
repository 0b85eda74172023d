"""Configurations of strangers: what a file that is not ours may say to Hydra, and where it may let us write.

A configuration is *ours* if it lies in the package's ``conf/`` or belongs to Hydra or an installed plugin of it. What
is typed on the command line is the user's word. Everything else (``--config-dir``, ``--config-path``,
``hydra.searchpath``) is a *recipe*, and may come from anybody.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path, PurePath
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.paths import CONF_DIR
from da_lightning.config.secrets import hidden
from da_lightning.errors import UserError
from da_lightning.private.hydra import LOADING, Default, Repository, command_line, parsed, wrap
from da_lightning.yaml_files import leaves


@dataclass
class Origin:
    """Where the configuration of this process comes from."""

    recipes: list[str] = field(default_factory=list)
    typed: list[Path] = field(default_factory=list)
    folder: Path = field(default_factory=Path.cwd)


_origin = Origin()


# -- what a recipe may say to Hydra ------------------------------------------------------------------------------------

# Names in a path that a recipe gives: nothing hidden, no way up.
_PART = r"\w[\w.=,+ -]*"
_INNER = re.compile(rf"{_PART}(/{_PART})*/?")
# Interpolations whose values are names of files of ours, numbers and dates.
_KNOWN = re.compile(
    r"\$\{(hydra[:.]runtime\.choices\.\w+|hydra[:.]job\.(num|id)|now:[%A-Za-z0-9_-]+|oc\.env:DA_RUN_STAMP(,\w*)?)\}"
)


def _is_inner(value: Any) -> bool:
    """A path inside the working folder."""
    if not isinstance(value, str):
        return False
    stem = value.split("${")[0]
    return bool(_INNER.fullmatch(_KNOWN.sub("x", value))) and not _leads_out(stem, [_origin.folder])


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float)


def _is_search(value: Any) -> bool:
    """A value, or a range of values, that is no path."""
    return _is_number(value) or (isinstance(value, str) and not re.search(r"\$\{|\.\.|~|/|\\|_target_", value))


_MAY: dict[str, Callable[[Any], bool]] = {
    r"run\.dir": _is_inner,
    r"sweep\.dir": _is_inner,
    r"sweep\.subdir": _is_inner,
    r"output_subdir": lambda value: value in (None, ".hydra") or _is_inner(value),
    r"mode": lambda value: value in ("RUN", "MULTIRUN"),
    r"job\.chdir": _is_number,
    r"verbose": _is_number,
    r"sweeper\.(n_trials|n_jobs|max_failure_rate|max_batch_size|sampler\.seed)": _is_number,
    r"sweeper\.direction": lambda value: value in ("maximize", "minimize"),
    r"sweeper\.study_name": lambda value: value is None or (isinstance(value, str) and bool(_INNER.fullmatch(value))),
    r"sweeper\.storage": lambda value: (
        value is None or (isinstance(value, str) and value.startswith("sqlite:///") and _is_inner(value[10:]))
    ),
    r"sweeper\.params\.[+~]{0,2}(?!hydra\b|(.*[./@])?(root|folder)$)[A-Za-z_][\w.@/]*": _is_search,
}
"""By key under ``hydra``: what is no target, no environment, and no path outside of the working folder."""


def check_hydra_options(options: Any, file: str) -> None:
    """Look at the ``hydra`` part of a recipe before Hydra acts on it.

    Raises:
        UserError: A key that could run code, change the environment or write elsewhere.
    """
    for key, value in leaves(options):
        if not any(re.fullmatch(pattern, key) and allows(value) for pattern, allows in _MAY.items()):
            shown = "hydra" + (f".{key}" if key else "")
            raise UserError(
                f"{file} sets {shown}, which a configuration that is not ours may not: it can run code, change the "
                f"environment or write outside of the working folder. If you trust it, type {shown}=... yourself."
            )


def _is_ours(source: str) -> bool:
    scheme, _, place = source.partition("://")
    if scheme == "file":
        return Path(place).resolve() == CONF_DIR.resolve()
    if scheme == "pkg":
        return place == "hydra.conf" or place.startswith("hydra_plugins.")
    return scheme == "structured"  # stored by an installed plugin


def _file(result: ConfigResult, config_path: str) -> str:
    place = result.path.removeprefix("file://")
    return os.path.relpath(f"{place}/{config_path}.yaml") if "://" not in place else f"{place}/{config_path}.yaml"


def _refusing(function: Callable) -> Callable:
    """``function``, whose refusals come to the user in Hydra's way."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except UserError as error:
            raise CompactHydraException(f"error: {hidden(str(error))}") from None

    return wrapped


def watch() -> None:
    """Look at each configuration that Hydra loads, in this process and in those that jobs of a sweep run in."""

    @_refusing
    def load_config(load: Callable, self: Repository, config_path: str) -> ConfigResult | None:
        if ".." in PurePath(config_path).parts or config_path.startswith(("/", "~")):
            raise UserError(f"{config_path} names a configuration outside of its folder: name one inside.")
        result = load(self, config_path)
        if result is not None and not _is_ours(result.path):
            _origin.recipes.append(_file(result, config_path))
            if isinstance(result.config, DictConfig):
                content = cast(dict, OmegaConf.to_container(result.config)).get("hydra")
                if isinstance(content, dict) and "searchpath" in content:  # Hydra would import packages from it
                    check_hydra_options({"searchpath": content["searchpath"]}, _file(result, config_path))
        return result

    @_refusing
    def load_single_config(place: Callable, self: Any, default: Default, repo: Repository) -> ConfigResult:
        result = place(self, default, repo)
        content = OmegaConf.to_container(result.config) if isinstance(result.config, DictConfig) else {}
        if not isinstance(content, dict) or "hydra" not in content:
            return result
        file = _file(result, default.config_path or "")
        if not _is_ours(result.path):
            check_hydra_options(content["hydra"], file)
        elif not _is_at_its_place(default) and _is_recipe(default.parent, repo):
            raise UserError(
                f"{default.parent} puts {default.config_path} at {default.package}, where Hydra would act on it, which "
                "a configuration that is not ours may not."
            )
        return result

    @_refusing
    def load_configuration(compose: Callable, self: Any, *arguments: Any, **options: Any) -> DictConfig:
        global _origin
        _origin = Origin(typed=_typed_paths(options["overrides"] if "overrides" in options else arguments[1]))
        cfg = compose(self, *arguments, **options)
        for group, choice in cfg.hydra.runtime.choices.items():
            # An optional one need not exist to be a part of the run's folder.
            for name in choice if isinstance(choice, list) else [choice]:
                if isinstance(name, str) and (".." in name or name.startswith(("/", "~"))):
                    raise UserError(f"{group}={name} names a configuration outside of its folder: name one inside.")
        return cfg

    for place, around in zip(LOADING, (load_config, load_single_config, load_configuration), strict=True):
        wrap(*place, around)


def _is_recipe(config_path: str | None, repo: Repository) -> bool:
    result = repo.load_config(config_path) if config_path else None
    return result is not None and not _is_ours(result.path)


def _is_at_its_place(default: Default) -> bool:
    group = (default.config_path or "").rpartition("/")[0].replace("/", ".")
    own = [group] if f"{group}.".startswith("hydra.") else []
    return default.package in (None, "", "_global_", *own)


def refuse_rerun(arguments: Sequence[str]) -> None:
    """Hydra's ``--experimental-rerun`` reads a pickle, which runs what is in it."""
    if command_line(arguments).experimental_rerun is not None:
        sys.exit("error: --experimental-rerun reads a pickle, which can run code: give the command of the run instead.")


# -- where a recipe may let us write -----------------------------------------------------------------------------------


def check_written(options: Mapping[str, Any], key: str) -> None:
    """Look at the options of what writes files, where recipes take part.

    Raises:
        UserError: A text that leads out of the working folder, and of the folders on the command line.
    """
    if not _origin.recipes:
        return
    for place, text in _texts(options, key):
        if _leads_out(text, [_origin.folder, *_origin.typed]):
            raise UserError(
                f"{place}={hidden(str(text))} leads out of the working folder, and a configuration that is not ours "
                f"takes part ({_origin.recipes[0]}): type {place}=... yourself if you mean it."
            )


def check_download(options: Mapping[str, Any], key: str) -> None:
    """Look at a download, where recipes take part.

    Raises:
        UserError: It would fill another folder than one under ``DA_DATA_DIR`` (or else ``data``) and those on the
            command line, or send an environment variable.
    """
    if not _origin.recipes or not options.get("download"):
        return
    if hidden(options.get("url")) != options.get("url"):
        raise UserError(f"{key}.url={hidden(options.get('url'))} would send an environment variable: take it out.")
    usual = _origin.folder / Path(os.environ.get("DA_DATA_DIR", "data")).expanduser()
    if _leads_out(options.get("folder"), [usual, *_origin.typed]):
        raise UserError(
            f"{key}.folder={hidden(str(options.get('folder')))} would be filled by a download, and a configuration "
            f"that is not ours takes part ({_origin.recipes[0]}): if you mean it, type data.root=... yourself, or let "
            f"it be a folder in {usual}."
        )


def _texts(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """All plain values in ``node``, by key; items of a list have the list's."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{key}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)
    else:
        yield key, node


def _leads_out(text: Any, folders: Sequence[Path]) -> bool:
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if not isinstance(text, str | PurePath):
        return False
    # Lightning expands variables, knows other file systems by their protocols, and writes numbers as characters ({:c}).
    if re.search(r"://|::|\$|\0|:[^{}]*c\}", str(text)):
        return True
    place = os.path.realpath(_origin.folder / os.path.expanduser(text))
    return not any(Path(place).is_relative_to(os.path.realpath(folder)) for folder in folders)


def _typed_paths(overrides: Sequence[str]) -> list[Path]:
    """Where the command line leads to: its absolute paths, and its options called ``root``, ``folder`` or ``dir``."""
    found = []
    for override in parsed(overrides) or ():
        if override.is_sweep_override() or override.is_delete():
            continue
        for key, text in _texts(override.value(), override.key_or_group):
            is_folder = key.rpartition(".")[2] in ("root", "folder", "dir")
            if isinstance(text, str) and text and (is_folder or text.startswith(("/", "~", ".."))):
                found.append(Path.cwd() / os.path.expanduser(text.partition("${")[0]))
    return found


def import_plugins() -> None:
    """Import Hydra's installed plugins, but no ``hydra_plugins`` that lies in the working folder."""
    kept, here = list(sys.path), os.path.realpath(".")
    sys.path[:] = [entry for entry in kept if os.path.realpath(entry or ".") != here]
    try:
        Plugins.instance()
    finally:
        sys.path[:] = kept
