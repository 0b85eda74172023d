"""Discriminators of image patches."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.translation.networks.blocks import ConvBlock, check_sides


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator a scale: RGB [B, 3, H, W] -> raw scores, [B, 1, h, w] a scale, finest first.

    Args:
        width: Channels of the first layer; they double with each layer.
        scales: Discriminators, each on an image of half the previous one's size.
        layers: Convolutions of stride 2 a scale.
        slope: Of the leaky ReLU.

    Raises:
        UserError: An image too small for the coarsest scale.
    """

    def __init__(self, width: int = 64, scales: int = 3, layers: int = 4, slope: float = 0.2) -> None:
        super().__init__()
        widths = [3, *(width * 2**layer for layer in range(layers))]
        self.scales = nn.ModuleList(
            nn.Sequential(
                *(ConvBlock(*pair, 4, 2, activation=nn.LeakyReLU(slope, inplace=True)) for pair in pairwise(widths)),
                nn.Conv2d(widths[-1], 1, 1),
            )
            for _ in range(scales)
        )
        least = (2**layers - 1) * 2 ** (scales - 1) + 1
        self.smallest = least, least

    def forward(self, image: Tensor) -> list[Tensor]:
        check_sides(image, self.smallest, "method.discriminator_scales", "method.discriminator_layers")
        pyramid = [image]
        for _ in self.scales[1:]:
            pyramid.append(F.avg_pool2d(pyramid[-1], 3, 2, 1, count_include_pad=False))
        return [scale(scaled) for scale, scaled in zip(self.scales, pyramid, strict=True)]
