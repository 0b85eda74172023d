"""Checkpoints and weight files: written whole, read without running code from them."""

import logging
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from da_lightning.errors import CheckpointError
from da_lightning.private.lightning import batches_in

log = logging.getLogger(__name__)

LAST, PREVIOUS, SOURCE_ONLY = "last.ckpt", "previous.ckpt", "source_only.ckpt"
"""Files in a run's ``checkpoints``: of the last epoch, of the one before, and of what adaptation began from."""

FORMER_CLASSES = {"SelfTrainedSegmenter": "CBST"}
"""Classes of methods that checkpoints may name, and what they are called now."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint or weight file, tensors on the CPU.

    Raises:
        CheckpointError: No file there, a damaged one, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give a checkpoint in it, a run's is checkpoints/{LAST}.")
    if not path.is_file():
        raise CheckpointError(f"Expected a checkpoint at {path}, found no file there: check the path.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch does not look at the checksums
                    raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged, and was not opened, since such a "
            "file can run code: save it again from a source you trust as a plain state dict."
        ) from None
    except Exception as error:  # the unpickler trips over other kinds of files in many ways
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is cut off or another kind of file; "
            "copy it again or take an earlier one."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the dict of a checkpoint: give another file."
        )
    return content


def write_tensors(content: Any, path: Path) -> None:
    """Write ``content`` to ``path`` by ``torch.save``, flushed to the disk.

    Raises:
        OSError: As the disk reports it; torch alone would say "PytorchStreamWriter failed".
    """
    with path.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from None
        stream.flush()
        os.fsync(stream.fileno())


def without_origins(options: Any) -> Any:
    """A method's ``options`` without the files that its weights began from, which its own weights replace.

    Checkpoints of ours name none, and those that a stranger's names are not followed.
    """
    if not isinstance(options, Mapping):
        return options
    return {
        key: None if key in ("init_from", "pretrained") else without_origins(value) for key, value in options.items()
    }


def check_classes(path: str | Path, content: Mapping[str, Any], classes: Iterable[str]) -> None:
    """Hold class names, in the order of their ids, against those of a checkpoint that records them.

    Raises:
        CheckpointError: They differ.
    """
    settings = content.get("hyper_parameters")
    recorded = settings.get("classes") if isinstance(settings, Mapping) else None
    if classes and recorded and list(classes) != list(recorded):
        raise CheckpointError(
            f"Expected the classes {', '.join(classes)}, but {path} was trained on {', '.join(recorded)}; "
            "choose a checkpoint with the same classes in the same order."
        )


def newest_training(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that is whole, ``last.ckpt`` or the one before, with its content.

    Args:
        folder: The run's ``checkpoints``.

    Returns:
        ``None`` where there is neither.

    Raises:
        CheckpointError: None of those that are there is whole.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.is_file() and not previous.is_file():
        return None
    try:
        return last, read_checkpoint(last)
    except CheckpointError as error:
        if not previous.is_file():
            raise
        what = str(error) if last.is_file() else f"{last} is gone."
    try:
        content = read_checkpoint(previous)
    except CheckpointError:
        raise CheckpointError(
            f"Neither {last} nor {previous.name} beside it can be read as a checkpoint: put a copy of one back, or "
            "begin a new run with resume=never."
        ) from None
    log.warning(
        "%s The run continues from %s, after iteration %s: what came later, one epoch at most, is trained again.",
        what,
        previous,
        batches_in(content),
    )
    return previous, content


def check_current(path: str | Path, content: Mapping[str, Any]) -> None:
    """Check that the class of a checkpoint's method is still there.

    Raises:
        CheckpointError: It has another name now.
    """
    kind = str(content.get("method")).rpartition(".")[2]
    if kind in FORMER_CLASSES:
        raise CheckpointError(
            f"{path} is from an earlier version of da_lightning, whose {kind} is {FORMER_CLASSES[kind]} now: use that "
            f"version, or begin a new run from its weights with method.init_from={path}."
        )


def check_resumable(path: str | Path, content: Mapping[str, Any], module: nn.Module, is_averaged: bool) -> None:
    """Check that the training in a checkpoint can go on in ``module``, with or without an average of its weights.

    Raises:
        CheckpointError: Weights without a training, of another class list, method or network, an average that the
            training would go on without, or more iterations than it is to have.
    """
    done = batches_in(content)
    if not {"state_dict", "optimizer_states", "lr_schedulers", "loops"} <= content.keys() or done is None:
        raise CheckpointError(
            f"{path} holds weights at most and no training that could go on: begin a new one with "
            f"method.init_from={path}."
        )
    check_current(path, content)
    check_classes(path, content, getattr(module, "classes", ()))
    recorded, own = content.get("method"), f"{type(module).__module__}.{type(module).__qualname__}"
    if recorded not in (None, own):
        raise CheckpointError(
            f"{path} is from another method or network ({str(recorded).rpartition('.')[2]}, and this is "
            f"{type(module).__name__}): give the method that it was trained with, or begin a new run with "
            f"method.init_from={path}."
        )
    check_weights(path, content, module)
    if "current_model_state" in content and not is_averaged:
        raise CheckpointError(
            f"{path} is from a training that averages its weights: give callbacks=ema to go on, or begin a new run "
            f"from the average with method.init_from={path}."
        )
    longest, own_iters = (getattr(module, name, done) for name in ("total_iters", "max_iters"))
    if done > longest:
        rounds = f" and {longest - own_iters} in rounds after them" if longest > own_iters else ""
        raise CheckpointError(
            f"{path} has trained {done} iterations, more than method.max_iters={own_iters}{rounds}: give "
            f"{done} or more, or begin a new run."
        )


def check_weights(path: str | Path, content: Mapping[str, Any], module: nn.Module) -> None:
    """Check that the weights in a checkpoint are those of ``module`` by name and shape.

    Raises:
        CheckpointError: They are not.
    """
    states = (content.get("state_dict"), module.state_dict())
    saved, own = (
        {name: getattr(value, "shape", None) for name, value in state.items()} if isinstance(state, Mapping) else {}
        for state in states
    )
    if differing := [name for name in saved | own if saved.get(name) is None or saved[name] != own.get(name)]:
        raise CheckpointError(
            f"{path} is from another method or network ({len(differing)} entries differ, {differing[0]} for one): "
            "give the options that it was trained with, or begin a new run."
        )
