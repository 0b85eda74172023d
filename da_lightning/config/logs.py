"""Hydra's files in a run folder, written so that a full disk is a sentence: ``log.txt`` and ``.hydra/*.yaml``."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from da_lightning.files import DiskError, disk_problem, write_text
from da_lightning.names import shown
from da_lightning.private.hydra import record_by, run_inside


class LogFile(logging.Handler):
    """``log.txt``, UTF-8 whatever the locale; where it cannot be written, one line on the screen says so.

    Each line is written by itself: nothing stays in a buffer that a kill or a full disk would lose later.

    Args:
        filename: The file.
        options: Of Python's ``FileHandler``, which this stands for.
    """

    def __init__(self, filename: str | os.PathLike[str], mode: str = "a", **options: Any) -> None:
        super().__init__()
        self.path, self.failed = Path(filename).absolute(), False
        if mode == "w":
            self.path.unlink(missing_ok=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            with self.path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            if not self.failed and sys.stderr is not None:
                print(f"warning: {DiskError(self.path, error)} Log lines are on the screen alone.", file=sys.stderr)
            self.failed = True
        except Exception:  # a message that does not fit its arguments
            self.handleError(record)


def save_whole(cfg: DictConfig, filename: str, output_dir: Path) -> None:
    """Write ``cfg`` to ``output_dir/filename``, whole or not at all.

    Raises:
        CompactHydraException: The disk does not take it; Hydra prints its sentence.
    """
    try:
        write_text(output_dir / filename, OmegaConf.to_yaml(cfg))
    except DiskError as error:
        raise CompactHydraException(f"error: {error}") from None


def reported(run: Callable[..., Any], func: Callable[[], Any]) -> Any:
    """What Hydra runs everything in, but a folder that cannot be made is a sentence, and names are shown safely."""

    def guarded() -> Any:
        try:
            return func()
        except OSError as error:
            if (problem := disk_problem(error)) is None:
                raise
            raise CompactHydraException(f"error: {shown(problem)}") from None
        except CompactHydraException as error:
            error.args = (shown(error, lines=True),)
            raise

    return run(guarded)


run_inside(reported)
record_by(save_whole)
