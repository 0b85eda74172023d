"""Reading a checkpoint without running code from it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from da_lightning.errors import CheckpointError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint or weight file, tensors on the CPU.

    Raises:
        CheckpointError: No file there, a damaged one, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"Expected a checkpoint at {path}, found no file there: check the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged, and was not opened, since such a "
            "file can run code: save it again from a source you trust as a plain state dict."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is cut off or another kind of file; "
            "copy it again or take an earlier one."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the dict of a checkpoint: give another file."
        )
    return content
