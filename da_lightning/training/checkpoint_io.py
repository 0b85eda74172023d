"""Checkpoints written whole, the one before kept, and read without running code or following foreign paths."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins import CheckpointIO, TorchCheckpointIO

from da_lightning.errors import CheckpointError, UserError
from da_lightning.files import whole_file
from da_lightning.private.lightning import load_as_given, write_through
from da_lightning.training.checkpoints import LAST, PREVIOUS, read_checkpoint, write_tensors
from da_lightning.training.strategy import failing_together

log = logging.getLogger(__name__)

RUN = "run"
"""Key of a checkpoint under which it says what the run was, see :mod:`da_lightning.training.run_record`."""


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's plugin that writes and reads the checkpoints of a run.

    A file is there whole or not at all. When ``last.ckpt`` is replaced, the one before becomes ``previous.ckpt``, and
    at each moment one of them is whole.

    Args:
        record: What the run is; it is added to each checkpoint.
    """

    def __init__(self, record: Mapping[str, Any] | None = None) -> None:
        self.record = dict(record or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            DiskError: See :func:`~da_lightning.files.whole_file`; the earlier file is untouched.
        """
        path = Path(path)
        if self.record:
            checkpoint = {**checkpoint, RUN: self.record}
        with whole_file(path) as part:
            write_tensors(checkpoint, part)
            if path.name == LAST and path.is_file():
                _link(path, path.with_name(PREVIOUS))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; of tensors and plain values alone, whatever torch's defaults are.

        Raises:
            CheckpointError: See :func:`~da_lightning.training.checkpoints.read_checkpoint`.
        """
        content = read_checkpoint(path)
        keep_to_own_folder(content, Path(path))
        return content


def with_own_io(plugins: Any, io: WholeCheckpoints) -> list[Any]:
    """The trainer's ``plugins`` and ``io``, which those that wrap another plugin for checkpoints write through.

    Raises:
        UserError: One of them writes checkpoints itself.
    """
    kept = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    own = [plugin for plugin in kept if isinstance(plugin, CheckpointIO)]
    if not own:
        return [*kept, io]
    if len(own) > 1 or not write_through(own[0], io):
        raise UserError(
            f"trainer.plugins has {type(own[0]).__name__}, which writes checkpoints itself: leave it out, since "
            "checkpoints are written here so that a full disk or a kill leaves the earlier one whole."
        )
    return kept


@contextmanager
def _in_a_sentence(path: Any) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
        raise CheckpointError(
            f"{path} does not fit this training ({type(error).__name__}: {reason}): give the options that it was "
            "trained with, or begin a new run."
        ) from error


def take_charge_of_checkpoints(trainer: L.Trainer) -> None:
    """Keep Lightning from checkpoints of its own choice; what cannot be saved ends all processes."""
    load_as_given(trainer, _in_a_sentence)
    strategy = trainer.strategy
    # All wait for one another in a save.
    strategy.save_checkpoint = failing_together(strategy)(strategy.save_checkpoint)  # type: ignore[method-assign]


def restore_last(previous: Path) -> None:
    """Let what is in ``previous.ckpt`` also be ``last.ckpt``, which is damaged or gone."""
    _link(previous, previous.with_name(LAST))


def _link(file: Path, name: Path) -> None:
    """Let ``file`` also be found as ``name``, in place of what is there; without hard links it is renamed."""
    link = name.with_name(f".part-{name.name}")
    try:
        link.unlink(missing_ok=True)
        os.link(file, link)
    except OSError:  # a file system without hard links
        file.replace(name)
    else:
        link.replace(name)
    finally:
        link.unlink(missing_ok=True)


def keep_to_own_folder(content: dict[str, Any], file: Path) -> None:
    """Let each path in the states of callbacks name a file of the run that ``file`` belongs to, wherever that lies now.

    A run's folder may be moved, and a stranger's checkpoint may name any file. So no path is followed as it stands: its
    end is looked for in the run's folder.
    """
    file = file.absolute()
    root = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    strange: set[str] = set()

    def own(text: str) -> str:
        path = Path(text)
        if path.is_relative_to(root) and ".." not in path.parts:
            return text
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        for begin in range(len(parts)):
            found = os.path.join(root, *parts[begin:])
            # A file of the run may be gone; its folder is not.
            if os.path.exists(found) or (begin + 1 < len(parts) and os.path.isdir(os.path.dirname(found))):
                return found
        strange.add(text)
        return os.path.join(root, "checkpoints", *parts[-1:])

    def kept(node: Any, is_path: bool = False) -> Any:
        if isinstance(node, str):
            return own(node) if os.path.isabs(node) or "://" in node or (is_path and node) else node
        if isinstance(node, dict):
            return {kept(key, is_path): kept(value, is_path or _names_path(key)) for key, value in node.items()}
        return type(node)(kept(item, is_path) for item in node) if isinstance(node, list | tuple) else node

    content.update({key: kept(value) for key, value in content.items() if key not in _WITHOUT_PATHS})
    if strange:
        names = ", ".join(sorted(strange))
        log.warning("%s names %s, which is outside its run's folder: not followed.", file, names)


_WITHOUT_PATHS = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "hyper_parameters", RUN)
"""Parts of a checkpoint that are large, or that a training in progress takes no path from."""


def _names_path(key: Any) -> bool:
    return isinstance(key, str) and key.endswith(("path", "folder", "best_k_models"))
