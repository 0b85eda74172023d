"""Small files of earlier runs and sweeps: what one of them has damaged must not keep others from being found."""

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from da_lightning.yaml_files import YamlError, checked_text

log = logging.getLogger(__name__)


def read_overrides(file: Path) -> list[str] | None:
    """The overrides that Hydra recorded in a run's ``overrides.yaml`` or a sweep's ``multirun.yaml``.

    Returns:
        ``None``, after a warning that names the file, where it cannot be read.
    """
    content = _yaml(file)
    if file.name == "multirun.yaml":
        for key in ("hydra", "overrides", "task"):
            content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, list) and all(isinstance(word, str | int | float) for word in content):
        return [str(word) for word in content]
    log.warning("%s is damaged, so the run that it belongs to is passed over.", file)
    return None


def read_summary(file: Path) -> dict[str, Any] | None:
    """What a finished run has left in ``metrics.json``.

    Returns:
        ``None`` where there is no such file, or, after a warning that names it, one that is not whole.
    """
    try:
        summary = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        summary = None
    if isinstance(summary, dict) and isinstance(summary.get("test"), dict):
        return summary
    log.warning("%s is damaged: the run counts as unfinished.", file)
    return None


def _yaml(file: Path) -> Any:
    try:
        return yaml.load(checked_text(file), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (YamlError, ValueError, RecursionError, yaml.YAMLError):
        return None
