"""Discriminators of image patches."""

from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.errors import UserError
from da_lightning.translation.networks.blocks import ConvBlock, Norm


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator a scale: RGB [B, 3, H, W] -> raw scores, [B, 1, h, w] a scale, finest first.

    Args:
        width: Channels of the first layer; they double with each layer.
        scales: Discriminators, each on an image of half the previous one's size.
        layers: Convolutions of stride 2 a scale.
        norm: Of all layers but the first.
        slope: Of the leaky ReLU.

    Raises:
        UserError: An image too small for the coarsest scale.
    """

    def __init__(
        self, width: int = 64, scales: int = 3, layers: int = 4, norm: Norm = "none", slope: float = 0.2
    ) -> None:
        super().__init__()
        widths = [3, *(width * 2**layer for layer in range(layers))]
        self.scales = nn.ModuleList(
            nn.Sequential(
                *(
                    ConvBlock(w, widths[i + 1], 4, 2, norm if i else "none", "leaky_relu", slope)
                    for i, w in enumerate(widths[:-1])
                ),
                nn.Conv2d(widths[-1], 1, 1),
            )
            for _ in range(scales)
        )
        self.smallest = (2**layers - 1) * 2 ** (scales - 1) + 1

    def forward(self, image: Tensor) -> list[Tensor]:
        if min(image.shape[-2:]) < self.smallest:
            raise UserError(
                f"Expected images of at least {self.smallest} pixels a side for {len(self.scales)} discriminator "
                f"scales, but found {image.shape[-2]}x{image.shape[-1]}: enlarge the crop, or lower "
                "method.discriminator_scales or method.discriminator_layers."
            )
        pyramid = [image]
        for _ in self.scales[1:]:
            pyramid.append(F.avg_pool2d(pyramid[-1], 3, 2, 1, count_include_pad=False))
        return [scale(scaled) for scale, scaled in zip(self.scales, pyramid, strict=True)]
