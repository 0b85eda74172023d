"""What a method hands over to be used outside this library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Exportable:
    """A network with the names of what goes in and comes out.

    Args:
        network: Takes an RGB image float32 [B, 3, H, W] in [0, 1], then ``further`` inputs; gives one tensor
            [B, ...]. Normalising is its own business.
        output: Name of the tensor it gives.
        about: What a reader of the file needs to know, by name, in plain values.
        further: Further inputs by name, and how to draw them for a batch of some size, [B, ...].
        multiple: Sides of images are multiples of this.
        smallest: Shortest side that images may have.
        size: The one (H, W) that images may have; ``None``: any.
        is_sized: A file needs one image size, height and width.
    """

    network: nn.Module
    output: str
    about: Mapping[str, Any]
    further: Mapping[str, Callable[[int], Tensor]] = field(default_factory=dict)
    multiple: int = 1
    smallest: int = 32
    size: tuple[int, int] | None = None
    is_sized: bool = False


Normalisation = Mapping[str, Sequence[float]]
"""``mean`` and ``std`` that a network normalises R, G, B in [0, 1] by."""
