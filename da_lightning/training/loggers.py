"""Loggers that fail cost their own records and a warning, never the training."""

import csv
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from inspect import getattr_static
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from da_lightning.errors import UserError
from da_lightning.files import DiskError, dispensable, whole_file, write_text
from da_lightning.private.lightning import NoExperiment, open_as, opened

log = logging.getLogger(__name__)


def guarded(logger: Logger) -> Logger:
    """Let ``logger`` stop recording, with one warning, when anything in it fails.

    It stays what it is to ``isinstance``: its class becomes a subclass that guards all public methods and properties.
    """
    logger.__class__ = _guarded_class(type(logger))
    return logger


@cache
def _guarded_class(kind: type[Logger]) -> type[Logger]:
    members: dict[str, Any] = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": _reduced}
    for name in dir(kind):
        member = getattr(kind, name)
        if name.startswith("_") or getattr(object, name, None) is member:
            continue
        if isinstance(member, property):
            members[name] = property(_attempted(cast(Callable, member.fget), name), member.fset, member.fdel)
        elif callable(member) and not isinstance(getattr_static(kind, name), staticmethod | classmethod | type):
            members[name] = _attempted(member, name)
    return type(kind.__name__, (kind,), members)


def _attempted(method: Callable, name: str) -> Callable:
    @wraps(method)
    def attempt(self: Any, *arguments: Any, **options: Any) -> Any:
        if not vars(self).get("_has_failed") or name == "close":  # which leaves the process as the next run wants it
            try:
                return method(self, *arguments, **options)
            except Exception as error:
                if not vars(self).get("_has_failed"):  # a method called by this one may have said so
                    reason = " ".join(str(error).split()) or type(error).__name__
                    log.warning("%s records nothing further, the run goes on without: %s", type(self).__name__, reason)
                vars(self)["_has_failed"] = True
        return NoExperiment() if name == "experiment" else None

    return attempt


def _reduced(self: Logger) -> tuple[Any, ...]:
    """For strategies that send loggers to other processes."""
    kind = type(self).__bases__[0]
    state = cast(Any, kind).__getstate__(self) if hasattr(kind, "__getstate__") else vars(self)
    return _restored, (kind,), state


def _restored(kind: type[Logger]) -> Logger:
    guarded_kind = _guarded_class(kind)
    return guarded_kind.__new__(guarded_kind)


class MetricsFile(CSVLogger):
    """``metrics.csv`` in a run folder, a row each time that numbers are logged, UTF-8 whatever the locale.

    A disk that does not take it costs a warning; the numbers are kept, and written when there is space again.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        return opened(self) or open_as(self, _Writer(self.log_dir))


class _Writer(ExperimentWriter):
    """Lightning's, which would end the run on a full disk, and leave half a file or none when columns are added."""

    _has_warned = False

    def log_hparams(self, params: dict[str, Any]) -> None:
        self.hparams.update(params)
        file = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        with dispensable(file.name), whole_file(file) as part:
            save_hparams_to_yaml(str(part), self.hparams)

    def save(self) -> None:
        if not self.metrics:
            return
        file, known = Path(self.metrics_file_path), self.metrics_keys
        columns = sorted({*known, *(name for row in self.metrics for name in row)})
        try:
            if columns == known and file.is_file():
                _append(file, _table(columns, self.metrics))
            else:
                write_text(file, f"{_table(columns)}{_table(columns, [*_rows(file), *self.metrics])}")
        except (UserError, OSError) as error:
            if not self._has_warned:
                what = error if isinstance(error, UserError) else DiskError(file, error)
                log.warning("%s The run continues, and will try again.", what)
            self._has_warned = True
            return
        self.metrics_keys, self.metrics, self._has_warned = columns, [], False


def _append(file: Path, text: str) -> None:
    """Add ``text`` or, where the disk is full, nothing."""
    size = file.stat().st_size
    try:
        with file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)
    except OSError:
        os.truncate(file, size)
        raise


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _table(columns: list[str], rows: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Rows as lines; without any the line of the columns' names."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, fieldnames=columns)
    if rows is None:
        writer.writeheader()
    else:
        writer.writerows(rows)
    return content.getvalue()
