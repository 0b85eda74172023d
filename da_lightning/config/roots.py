"""Folders of data sets: looked for before anything is built, and named by the option that says where they lie."""

import itertools
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from da_lightning.errors import DataError
from da_lightning.yaml_files import leaves


def check_roots(cfg: DictConfig) -> None:
    """Check that there is something in each folder that a data set of ``cfg.data`` reads.

    Folders that a download can fill are left to :mod:`da_lightning.data.downloads`.

    Raises:
        DataError: A folder is missing or empty; the message names all such, and the options that say where they lie.
    """
    empty: dict[Path, list[str]] = {}
    is_usual = False
    as_written = dict(leaves(OmegaConf.to_container(cfg)))
    resolved = dict(leaves(OmegaConf.to_container(cfg.data, resolve=True), "data"))
    for key, root in sorted(resolved.items(), key=lambda item: item[0]):
        node, _, name = key.rpartition(".")
        if name != "root" or node == "data" or f"{node}._target_" not in resolved or root == "???":
            continue
        if _is_empty(folder := _folder(str(root))):
            options, written = _origin(as_written, key)
            whole = OmegaConf.select(cfg, options[-1])
            if isinstance(whole, str) and _is_empty(_folder(whole)):  # not a part of it alone
                folder, options = _folder(whole), options[-1:]
            empty.setdefault(folder, options)
            is_usual |= "DA_DATA_DIR" in written
    if not empty:
        return
    found = "; ".join(
        f"{options[0]} is {folder}, which {'is empty' if folder.is_dir() else 'does not exist'}"
        for folder, options in empty.items()
    )
    ways = [f"{option}=<folder>" for option in dict.fromkeys(itertools.chain(*empty.values()))]
    usual = ", or let DA_DATA_DIR name the folder that holds all data sets" if is_usual else ""
    raise DataError(f"{found}: put the data set there, or say where it lies with {' or '.join(ways)}{usual}.")


def _origin(written: dict[str, Any], key: str) -> tuple[list[str], str]:
    """The options that say what ``key`` is, the one that all others are taken from last, and what is written there."""
    parent, text = key.rpartition(".")[0], str(written.get(key))
    taken = re.match(r"\$\{(\.*)([\w.]+)\}(/?)", text)
    if taken is None:
        return [key], text
    above = parent.rsplit(".", len(taken[1]) - 1)[0] if taken[1] else ""  # one dot is the node itself
    options, text = _origin(written, f"{above}.{taken[2]}".lstrip("."))
    return ([key, *options] if taken[3] else options), text


def _folder(root: str) -> Path:
    return Path(root).expanduser().absolute()


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir()) if folder.is_dir() else not folder.exists()
