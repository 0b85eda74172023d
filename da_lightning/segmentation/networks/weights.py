"""Weight files: tensors only, never pickled code. Parameter names are those of the official AdaptSegNet files."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from da_lightning.errors import CheckpointError, UserError
from da_lightning.training.checkpoints import check_classes, read_checkpoint

logger = logging.getLogger(__name__)

_WRAPPERS = ("network.", "module.", "Scale.")  # Lightning module, DataParallel, the Caffe-converted files


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a plain state dict, ``{"state_dict": ...}`` or the ``network.`` part of one of our checkpoints, unprefixed.

    Raises:
        CheckpointError: The file is missing, damaged, holds pickled code, or holds no state dict.
    """
    return _state_dict(read_checkpoint(path), path)


def imagenet_state_dict(model: str) -> dict[str, Tensor]:
    """Fetch torchvision's ``IMAGENET1K_V1`` weights of ``model`` into torch's cache, or read them there.

    Raises:
        UserError: They cannot be downloaded.
    """
    weights = get_model_weights(model)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # network, disk, hash and pickle errors share no base class
        raise UserError(
            f"Expected to download the ImageNet weights of {model}, but failed ({error}); "
            f"fetch {weights.url} elsewhere and set pretrained to that local file."
        ) from error


def load_pretrained(
    network: nn.Module,
    model: str,
    pretrained: str | None,
    backbone: Iterable[str],
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Start the entries named ``backbone`` from ImageNet weights or a file; heads in the file are left alone.

    Args:
        model: torchvision's name of the backbone.
        pretrained: None (stay random), ``imagenet``, or a path.
        renamed: Beginnings of names in the file, and what they are in ``network``.

    Raises:
        CheckpointError: Fewer than 95 % of ``backbone`` fit by name and shape, so training would start from noise.
    """
    kind = type(network).__name__
    if pretrained is None:
        logger.info("%s (%s) starts from random weights: pretrained is not set.", kind, model)
        return
    state = imagenet_state_dict(model) if pretrained == "imagenet" else read_state_dict(pretrained)
    for old, new in (renamed or {}).items():
        state = {new + name.removeprefix(old) if name.startswith(old) else name: state[name] for name in state}
    own = network.state_dict()
    names = _counted(backbone)
    fitting = {name: state[name] for name in names if name in state and state[name].shape == own[name].shape}
    missing = _some(name for name in names if name not in fitting)
    surplus = _some(name for name in _counted(state) if name not in fitting)
    if len(fitting) < 0.95 * len(names):
        raise CheckpointError(
            f"Expected the backbone of {kind} in {pretrained}, but only {len(fitting)} of {len(names)} entries fit by "
            f"name and shape (missing: {missing}; surplus: {surplus}); choose the backbone that the file was made for."
        )
    network.load_state_dict(fitting, strict=False)
    level = logging.INFO if len(fitting) == len(names) else logging.WARNING
    message = "%s: loaded %d of %d backbone entries from %s (missing: %s; not used: %s)."
    logger.log(level, message, kind, len(fitting), len(names), pretrained, missing, surplus)


def load_weights(network: nn.Module, path: str | Path, classes: Iterable[str] | None = None) -> None:
    """Load all weights of ``network``, from one of our checkpoints or an official AdaptSegNet file.

    An official file does not say how many branches its heads sum. Two is assumed, as in AdaptSegNet, unless the network
    was built with ``legacy_head`` set: weights of ADVENT, CRST or tllib, whose names are the same, need ``False``.

    Args:
        classes: Class names in the order of their ids, held against those of a checkpoint that records them.

    Raises:
        CheckpointError: An unreadable file, other classes, missing or surplus names; ``network`` is then untouched.
    """
    content = read_checkpoint(path)
    check_classes(path, content, classes or ())
    state, own = _state_dict(content, path), network.state_dict()
    if "layer6.conv2d_list.0.weight" in own and not any(name.startswith("layer6.") for name in state):
        # The official single-level network calls its only head layer5.
        state = {name.replace("layer5.", "layer6."): value for name, value in state.items()}
    silent = [name for name in own if name.endswith("_extra_state") and name not in state]
    state |= dict.fromkeys(silent, torch.tensor(True))

    differing = {n: (state[n].shape, own[n].shape) for n in own if n in state and state[n].shape != own[n].shape}
    counts = {(old[0], new[0]) if old[1:] == new[1:] else None for old, new in differing.values() if old and new}
    if len(counts) == 1 and (count := counts.pop()):  # nothing but the number of output channels differs
        raise CheckpointError(
            f"Expected weights for {count[1]} classes, but {path} was trained with {count[0]}; "
            "choose a file for as many classes as the data has, or change the data's classes."
        )
    missing = [name for name in _counted(own) if name not in state]
    surplus = [name for name in _counted(state) if name not in own]
    if missing or surplus or differing:
        raise CheckpointError(
            f"Expected the weights of {type(network).__name__} in {path}, but the names do not fit (missing: "
            f"{_some(missing)}; surplus: {_some(surplus)}; of another shape: {_some(differing)}); "
            "choose the backbone and levels that the file was made for."
        )
    network.load_state_dict(state, strict=False)
    if silent:
        logger.info("%s does not say what its heads sum: two branches, unless legacy_head was set.", path)


def _state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content)
    if isinstance(state, Mapping):
        state = {name: value for name, value in state.items() if str(name).startswith("network.")} or state
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise CheckpointError(
            f"Expected a state dict (parameter name -> tensor) in {path}, but found something else; "
            "save network.state_dict() alone."
        )
    return {_unwrapped(str(name)): value for name, value in state.items()}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _counted(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith("num_batches_tracked")]  # absent from files before torch 0.4.1


def _some(names: Iterable[str], limit: int = 6) -> str:
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + rest
