"""Reading a checkpoint without running code from it."""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from da_lightning.errors import CheckpointError

# The unpickler trips over other kinds of files in many ways.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    zipfile.BadZipFile,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint or weight file, tensors on the CPU.

    Raises:
        CheckpointError: No file there, a damaged one, or one that holds more than tensors and plain values.
    """
    path = Path(path)
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
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is cut off or another kind of file; "
            "copy it again or take an earlier one."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the dict of a checkpoint: give another file."
        )
    return content


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


def check_resumable(path: str | Path, content: Mapping[str, Any], module: nn.Module, is_averaged: bool) -> None:
    """Check that the training in a checkpoint can go on in ``module``, with or without an average of its weights.

    Raises:
        CheckpointError: Weights without a training, of another class list, method or network, or an average that the
            training would go on without.
    """
    if not {"state_dict", "optimizer_states", "loops"} <= content.keys():
        raise CheckpointError(
            f"{path} holds weights at most and no training that could go on: begin a new one with "
            f"method.init_from={path}."
        )
    check_classes(path, content, getattr(module, "classes", ()))
    saved, own = (
        {name: value.shape for name, value in state.items()} for state in (content["state_dict"], module.state_dict())
    )
    late = getattr(module, "made_in_setup", ())
    known = [name for name in saved | own if name in own or not name.startswith(late)]
    if differing := [name for name in known if saved.get(name) != own.get(name)]:
        raise CheckpointError(
            f"{path} is from another method or network ({len(differing)} entries differ, {differing[0]} for one): "
            "give the options that it was trained with, or begin a new run."
        )
    if "current_model_state" in content and not is_averaged:
        raise CheckpointError(
            f"{path} is from a training that averages its weights: give callbacks=ema to go on, or begin a new run "
            f"from the average with method.init_from={path}."
        )
