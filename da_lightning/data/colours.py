"""How the colours of training images are varied, for all families; draws are of torch's global generator."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

Augment = Literal["strong"]


def random_colours(jitter: float, augment: Augment | None) -> nn.Module:
    """What images uint8 [3, H, W] pass through.

    Args:
        jitter: Strength of random brightness, contrast and saturation; 0 leaves them alone.
        augment: ``strong``: :class:`StrongColours` in their place.
    """
    if augment == "strong":
        return StrongColours()
    return v2.ColorJitter(jitter, jitter, jitter) if jitter else v2.Identity()


class StrongColours(nn.Module):
    """Brightness, contrast, saturation by up to 0.8; noise, blur on half of the images; darkness, haze on a third each.

    Whoever has source labels alone imitates other weather and other cameras by it: the second free row beside random
    colours.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jitter = v2.ColorJitter(0.8, 0.8, 0.8)
        self.blur = v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], 0.5)

    def forward(self, image: Tensor) -> Tensor:
        image = self.blur(self.jitter(image)).float() / 255
        if torch.rand(()) < 1 / 3:
            image = image * torch.empty(()).uniform_(0.2, 0.8)
        if torch.rand(()) < 1 / 3:
            share, grey = torch.empty(()).uniform_(0.2, 0.7), torch.empty(()).uniform_(0.7, 0.9)
            image = (1 - share) * image + share * grey
        if torch.rand(()) < 0.5:
            image = image + torch.randn(image.shape) * torch.empty(()).uniform_(0.01, 0.1)
        return (image * 255).round().clamp(0, 255).to(torch.uint8)
