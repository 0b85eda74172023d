"""Networks whose weights are all of another precision than float32."""

from typing import Any

from torch import Tensor, nn

CONVERTED = ("64-true", "bf16-true", "16-true")
"""Precisions under which Lightning converts the weights and each batch."""


def cast_inputs(network: nn.Module) -> None:
    """Let each layer of ``network`` cast what it is given to the precision of its own weights.

    Losses, softmax maps and stored codes stay float32 where weights are not, and what callbacks show a network never
    passes through Lightning.
    """
    for layer in network.modules():
        has_weights = any(p.is_floating_point() for p in layer.parameters(recurse=False))
        if has_weights and _cast not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_cast)


def _cast(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    own = next(p for p in layer.parameters(recurse=False) if p.is_floating_point())
    return tuple(x.to(own.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
