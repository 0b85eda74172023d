"""Recorded numbers: .npz files whose ``meta`` says what was run, with parameters filled from their names."""

import json
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def golden_files(pattern: str) -> list[Path]:
    """Files that match ``pattern`` in DA_GOLDEN_DIR, by default ``golden`` beside this file; at least one."""
    folder = Path(os.environ.get("DA_GOLDEN_DIR") or Path(__file__).parent / "golden")
    if not (found := sorted(folder.glob(pattern))):
        raise FileNotFoundError(f"Expected recorded numbers ({pattern}) in {folder}, found none: set DA_GOLDEN_DIR.")
    return found


def read_golden(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays of a file as tensors, and its ``meta``."""
    with np.load(path) as content:
        arrays = {name: torch.from_numpy(content[name]) for name in content.files if content[name].dtype.kind in "fiub"}
        return arrays, json.loads(str(content["meta"]))


def filled_parameter(name: str, shape: list[int]) -> Tensor:
    """The float32 value that the recording gave to the parameter ``name``."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        noise = 1 + 0.1 * np.abs(noise)
    elif name.endswith("running_mean"):
        noise = 0.05 * noise
    elif len(shape) >= 2:
        noise = noise / np.sqrt(prod(shape[1:]))
    elif name.endswith(("weight", "gamma")):
        noise = 1 + 0.1 * noise
    else:
        noise = 0.05 * noise
    return torch.from_numpy(np.asarray(noise, dtype=np.float32))


def filled_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict filled by ``filled_parameter``."""
    return {name: filled_parameter(name, shape) for name, shape in shapes.items()}
