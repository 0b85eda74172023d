"""The weights that translators begin with."""

from functools import partial
from typing import Any, Literal

from torch import Tensor, nn


def initialise(network: nn.Module, init: Literal["kaiming", "normal"]) -> None:
    """Draw all convolution and linear weights, ``kaiming`` or N(0, 0.02); biases become 0."""
    draw: Any = nn.init.kaiming_normal_ if init == "kaiming" else partial(nn.init.normal_, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Additive(nn.Module):
    """A generator that says what to add to an image: it begins as the identity, and colours need not be made anew.

    Args:
        generator: Its last convolution is set to zero.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        last = [module for module in generator.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)][-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, *domain: Tensor) -> Tensor:
        return image + self.generator(image, *domain)
