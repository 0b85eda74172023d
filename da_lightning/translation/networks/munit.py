"""The generator of MUNIT: content and style encoders, and a decoder whose norms take the style."""

from itertools import pairwise

from torch import Tensor, nn

from da_lightning.translation.networks.blocks import ConvBlock
from da_lightning.translation.networks.initial_weights import initialise
from da_lightning.translation.networks.unit import Decoder, Encoder


class MUNITGenerator(nn.Module):
    """Encoders and decoder of one domain.

    Args:
        width: Channels of the first layers.
        downsamples: Halvings before the content code, [B, width 2^n, H/2^n, W/2^n].
        residuals: Residual blocks of the content encoder, and of the decoder.
        style_dim: Length of the style code, [B, style_dim].
        mlp_width: Of the network that turns a style into the norms' shifts and scales.
    """

    def __init__(self, width: int, downsamples: int, residuals: int, style_dim: int, mlp_width: int) -> None:
        super().__init__()
        self.affine_shape = (residuals, 2, 2, width * 2**downsamples)
        self.content_encoder = Encoder(width, downsamples, residuals)
        # No norms: they would remove the means and deviations that are the style.
        widths = [width, 2 * width, 4 * width, 4 * width, 4 * width]
        self.style_encoder = nn.Sequential(
            ConvBlock(3, width, 7),
            *(ConvBlock(*pair, 4, 2) for pair in pairwise(widths)),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(4 * width, style_dim, 1),
            nn.Flatten(),
        )
        self.mlp = nn.Sequential(
            nn.Linear(style_dim, mlp_width),
            nn.ReLU(inplace=True),
            nn.Linear(mlp_width, mlp_width),
            nn.ReLU(inplace=True),
            nn.Linear(mlp_width, 4 * residuals * self.affine_shape[-1]),
        )
        self.decoder = Decoder(width, downsamples, residuals)
        initialise(self, "kaiming")

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """RGB in -1..1 of a content and a style code."""
        return self.decoder(content, self.mlp(style).unflatten(1, self.affine_shape))
