"""Weight files that more than one family reads: tensors only, never pickled code."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model_weights

from da_lightning.errors import CheckpointError, UserError
from da_lightning.training.checkpoints import read_checkpoint
from da_lightning.training.norms import folded

logger = logging.getLogger(__name__)

_WRAPPERS = ("network.", "module.", "Scale.")  # Lightning module, DataParallel, the Caffe-converted files


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a plain state dict, ``{"state_dict": ...}`` or the ``network.`` part of one of our checkpoints, unprefixed.

    Raises:
        CheckpointError: The file is missing, damaged, holds pickled code, or holds no state dict.
    """
    return unwrapped_state_dict(read_checkpoint(path), path)


def imagenet_state_dict(model: str, option: str = "pretrained") -> dict[str, Tensor]:
    """Fetch torchvision's ``IMAGENET1K_V1`` weights of ``model`` into torch's cache, or read them there.

    Args:
        model: torchvision's name.
        option: What a user would set to a local file instead.

    Raises:
        UserError: They cannot be downloaded.
    """
    weights = get_model_weights(model)["IMAGENET1K_V1"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # network, disk, hash and pickle errors share no base class
        raise UserError(
            f"Expected to download the ImageNet weights of {model}, but failed ({error}); "
            f"fetch {weights.url} elsewhere and set {option} to that local file."
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
    names = required(backbone)
    fitting = {name: state[name] for name in names if name in state and state[name].shape == own[name].shape}
    missing = some_of(name for name in names if name not in fitting)
    surplus = some_of(name for name in required(state) if name not in fitting)
    if len(fitting) < 0.95 * len(names):
        raise CheckpointError(
            f"Expected the backbone of {kind} in {pretrained}, but only {len(fitting)} of {len(names)} entries fit by "
            f"name and shape (missing: {missing}; surplus: {surplus}); choose the backbone that the file was made for."
        )
    network.load_state_dict(fitting, strict=False)
    level = logging.INFO if len(fitting) == len(names) else logging.WARNING
    message = "%s: loaded %d of %d backbone entries from %s (missing: %s; not used: %s)."
    logger.log(level, message, kind, len(fitting), len(names), pretrained, missing, surplus)


def check_children(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Check that ``state``, from ``path``, has each child of ``module`` whole or not at all.

    Returns:
        The entries of ``module`` that ``state`` would replace.

    Raises:
        CheckpointError: Missing or surplus names, or other shapes.
    """
    children = {name.partition(".")[0] for name in state}
    own = {name: value for name, value in module.state_dict().items() if name.partition(".")[0] in children}
    missing = [name for name in required(own) if name not in state]
    surplus = [name for name in required(state) if name not in own]
    differing = [n for n in own if n in state and getattr(state[n], "shape", None) != own[n].shape]
    if missing or surplus or differing or not own:
        raise CheckpointError(
            f"Expected weights of {type(module).__name__} in {path}, but the names do not fit (missing: "
            f"{some_of(missing)}; surplus: {some_of(surplus)}; of another shape: {some_of(differing)}); choose another "
            "file, or the widths and numbers of layers that it was made with."
        )
    return {name: value for name, value in own.items() if name in state}


def unwrapped_state_dict(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """What :func:`read_state_dict` finds in the ``content`` of ``path``."""
    state = tested_weights(content) if isinstance(content.get("state_dict"), Mapping) else content
    if isinstance(state, Mapping):
        state = {name: value for name, value in state.items() if str(name).startswith("network.")} or state
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise CheckpointError(
            f"Expected a state dict (parameter name -> tensor) in {path}, but found something else; "
            "save network.state_dict() alone."
        )
    return {_unwrapped(str(name)): value for name, value in state.items()}


def tested_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in a checkpoint of ours as it was tested, without teachers and with one batch norm for all domains.

    A teacher that was tested is in its network's place.
    """
    state, teachers = dict(content["state_dict"]), content.get("teachers")
    for teacher, network in (teachers if isinstance(teachers, Mapping) else {}).items():
        own = {str(name): state.pop(name) for name in list(state) if str(name).startswith(f"{teacher}.")}
        if network is not None:
            state = {name: value for name, value in state.items() if not str(name).startswith(f"{network}.")}
            inside = f"{teacher}.network."
            state |= {f"{network}.{name.removeprefix(inside)}": own[name] for name in own if name.startswith(inside)}
    return folded({str(name): value for name, value in state.items()})


def required(names: Iterable[str]) -> list[str]:
    """Names that any file must have: old ones do not count batches."""
    return [name for name in names if not name.endswith("num_batches_tracked")]  # absent from files before torch 0.4.1


def some_of(names: Iterable[str], limit: int = 6) -> str:
    """``names`` for a message, the first ``limit`` of them."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + rest


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name
