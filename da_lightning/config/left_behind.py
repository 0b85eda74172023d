"""Small files of earlier runs and sweeps: what one of them has damaged must not keep others from being found."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from da_lightning.errors import UserError
from da_lightning.reporting import runs

log = logging.getLogger(__name__)


def read_overrides(file: Path) -> list[str] | None:
    """The overrides that Hydra recorded in a run's ``overrides.yaml`` or a sweep's ``multirun.yaml``.

    Returns:
        ``None``, after a warning that names the file, where it cannot be read.
    """
    content = None
    with suppress(UserError, OSError):
        content = runs.read_yaml(file)
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
    if not file.is_file():
        return None
    with suppress(UserError, OSError):
        summary = runs.read_summary(file)
        if "test" in summary:
            return summary
    log.warning("%s is damaged: the run counts as unfinished.", file)
    return None
