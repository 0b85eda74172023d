"""Segmentation weight files. Parameter names are those of the official AdaptSegNet files."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from da_lightning.errors import CheckpointError
from da_lightning.training.checkpoints import check_classes, read_checkpoint
from da_lightning.training.weights import required, some_of, unwrapped_state_dict

logger = logging.getLogger(__name__)

_AUXILIARY = ("auxiliary.", "layer5.")


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
    state, own = unwrapped_state_dict(content, path), network.state_dict()
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
    missing = [name for name in required(own) if name not in state]
    surplus = [name for name in required(state) if name not in own]
    if surplus and not missing and not differing and all(name.startswith(_AUXILIARY) for name in surplus):
        logger.info("The auxiliary head in %s is left out: the network here has none.", path)
        state = {name: value for name, value in state.items() if name not in surplus}
        surplus = []
    if missing or surplus or differing:
        raise CheckpointError(
            f"Expected the weights of {type(network).__name__} in {path}, but the names do not fit (missing: "
            f"{some_of(missing)}; surplus: {some_of(surplus)}; of another shape: {some_of(differing)}); "
            "choose the backbone and levels that the file was made for."
        )
    network.load_state_dict(state, strict=False)
    if silent:
        logger.info("%s does not say what its heads sum: two branches, unless legacy_head was set.", path)
