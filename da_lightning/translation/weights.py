"""Weight files of translators: ours, and those of the official codes."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from da_lightning.errors import CheckpointError
from da_lightning.training.checkpoints import read_checkpoint
from da_lightning.training.weights import check_children, tested_weights

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Patterns = Sequence[tuple[str, Any]]
"""What ``re.sub`` looks for in names, and what it puts there."""


def load_weights(module: nn.Module, path: str | Path, official: Callable[[Mapping[str, Any]], State]) -> None:
    """Load the children of ``module`` that a file has weights of, each of them whole.

    Args:
        path: One of our checkpoints, or an official file.
        official: Gives the content of an official file our names; what it does not know keeps its name.

    Raises:
        CheckpointError: An unreadable file, missing or surplus names, or other shapes; ``module`` is then untouched.
    """
    content = read_checkpoint(path)
    state = tested_weights(content) if isinstance(content.get("state_dict"), Mapping) else official(content)
    own = check_children(module, state, path)
    stored: dict[int, Tensor] = {}
    for name, value in own.items():  # layers that two networks share have a name in each
        if not state[name].equal(stored.setdefault(value.data_ptr(), state[name])):
            raise CheckpointError(
                f"{path} has different weights under {name} and where that layer is shared: set method.shared_layers "
                "to the number that it was trained with."
            )
    module.load_state_dict(state, strict=False)
    children = sorted({name.partition(".")[0] for name in own})
    logger.info("Loaded the %s of %s from %s.", " and the ".join(children), type(module).__name__, path)


def weight_files(path: Path, pattern: str, example: str) -> list[Path]:
    """The file ``path``, or those of ``pattern`` in that folder.

    Raises:
        CheckpointError: A folder without any.
    """
    files = sorted(path.glob(pattern)) if path.is_dir() else [path]
    if not files:
        raise CheckpointError(f"Expected {example} and the like in {path}, found none: give another folder.")
    return files


_NVLABS: Patterns = [
    (r"^gen_a\.", "generators.source."),
    (r"^gen_b\.", "generators.target."),
    (r"^dis_a\.cnns\.", "discriminators.source.scales."),
    (r"^dis_b\.cnns\.", "discriminators.target.scales."),
    (r"\.enc_style\.model\.", ".style_encoder."),
    (r"\.enc_content\.", ".content_encoder."),
    (r"\.enc\.", ".encoder."),
    (r"encoder\.model\.\d+\.model\.(\d+)\.model\.", r"encoder.residuals.\1.layers."),
    (r"encoder\.model\.", "encoder.convs."),
    (r"\.mlp\.model\.(\d+)\.fc\.", lambda match: f".mlp.{2 * int(match[1])}."),
    (r"\.dec\.model\.0\.model\.(\d+)\.model\.", r".decoder.residuals.\1.layers."),
    (r"\.dec\.model\.(\d*[02468])\.", lambda match: f".decoder.upsamples.{int(match[1]) // 2 - 1}."),
    (r"\.dec\.model\.\d+\.", ".decoder.output."),
]
"""Names in the code of UNIT and MUNIT, and ours, applied in this order."""


def nvlabs_state(content: Mapping[str, Any]) -> State:
    """The weights in a file of the official UNIT or MUNIT code, under our names.

    That is ``gen_*.pt`` or ``dis_*.pt`` (a state dict a domain, ``a`` the source), or one state dict whose names begin
    with ``gen_a.``, ``gen_b.``, ``dis_a.``, ``dis_b.``.
    """
    if content.keys() == {"a", "b"}:
        kind = "dis" if any(name.startswith("cnns.") for name in content["a"]) else "gen"
        content = {f"{kind}_{domain}.{name}": value for domain in "ab" for name, value in content[domain].items()}
    return renamed_state(content, _NVLABS)


def renamed_state(content: Mapping[str, Any], patterns: Patterns) -> State:
    """The state dict of an official file, each name :func:`renamed`, without statistics of norms, which none uses."""
    kept = [name for name in content if not re.search(r"\.running_(mean|var)$|\.num_batches_tracked$", name)]
    return {renamed(name, patterns): content[name] for name in kept}


def renamed(name: str, patterns: Patterns) -> str:
    """``name`` after ``re.sub`` by each pair of ``patterns``, one after another."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name
