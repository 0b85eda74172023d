"""Whether networks can train on batches of a shape, found out without computing anything."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from da_lightning.errors import UserError

Shapes = Mapping[str, Sequence[int]]
"""[B, C, H, W] by domain."""

_TOO_FEW_VALUES = "Expected more than 1 value per channel"
_TOO_SMALL = re.compile(
    "Expected more than 1 spatial element|[Pp]adding size should be less than|Kernel size can't be greater than|"
    "utput size is too small|non-zero size|smaller than kernel size"
)


def rehearse(module: nn.Module, step: Callable[[dict[str, Tensor]], Any], shapes: Shapes) -> None:
    """Run ``step`` on images of ``shapes`` with all weights of ``module`` on torch's meta device: shapes alone count.

    Raises:
        UserError: A batch is too small, or its images are. Other errors, of a network that needs real numbers, are not.
    """
    weights = {f"module.{name}": _shape_of(t) for name, t in (*module.named_parameters(), *module.named_buffers())}
    images = {domain: torch.empty(*shape, device="meta") for domain, shape in shapes.items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            # Tied, a layer under two names would be given back the weights of the rehearsal.
            torch.func.functional_call(_Step(module, step), weights, (images,), tie_weights=False)
    except UserError:
        raise
    except Exception as error:  # torch has no common type for what it cannot do without numbers
        if sentence := size_problem(error, shapes):
            raise UserError(sentence) from None


def size_problem(error: Exception, shapes: Shapes) -> str | None:
    """A sentence about an error that batches of ``shapes`` are too small, or their images; ``None`` for others."""
    found = " and ".join(f"{shape[0]} {domain} of {shape[-2]}x{shape[-1]}" for domain, shape in shapes.items())
    text = " ".join(str(error).split())
    is_too_few = _TOO_FEW_VALUES in text
    if is_too_few and any(shape[0] == 1 for shape in shapes.values()):
        return (
            f"Norms need more than one value of each channel, which a batch with images {found} does not leave: raise "
            "data.batch_size (on each device) to 2 at least, or enlarge data.crop_size or data.image_size."
        )
    if is_too_few or _TOO_SMALL.search(text):
        return (
            f"Images of a batch, {found}, are too small for these networks ({text}): enlarge data.crop_size, or "
            "data.image_size where nothing is cropped."
        )
    return None


class _Step(nn.Module):
    def __init__(self, module: nn.Module, step: Callable[[dict[str, Tensor]], Any]) -> None:
        super().__init__()
        self.module, self.step = module, step

    def forward(self, images: dict[str, Tensor]) -> None:
        self.step(images)


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
