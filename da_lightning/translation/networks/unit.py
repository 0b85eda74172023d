"""The generator of UNIT: an encoder and a decoder around a feature map that two domains share."""

from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.translation.networks.blocks import ConvBlock, ResidualBlock, UpsampleBlock
from da_lightning.translation.networks.initial_weights import initialise


class Encoder(nn.Module):
    """RGB [B, 3, H, W] -> code [B, channels, H/2^n, W/2^n], n = ``downsamples``, channels = ``width`` 2^n."""

    def __init__(self, width: int, downsamples: int, residuals: int) -> None:
        super().__init__()
        widths = [width * 2**n for n in range(downsamples + 1)]
        self.convs = nn.Sequential(
            ConvBlock(3, width, 7, is_normed=True),
            *(ConvBlock(w, 2 * w, 4, 2, is_normed=True) for w in widths[:-1]),
        )
        self.residuals = nn.Sequential(*(ResidualBlock(widths[-1]) for _ in range(residuals)))

    def forward(self, image: Tensor) -> Tensor:
        return self.residuals(self.convs(image))


class Decoder(nn.Module):
    """The way back from an :class:`Encoder`'s code to RGB in -1..1.

    Upsampling layers are layer-normed: an instance norm would wipe out the style that mean and deviation carry.
    """

    def __init__(self, width: int, downsamples: int, residuals: int) -> None:
        super().__init__()
        widths = [width * 2**n for n in range(downsamples, -1, -1)]
        self.residuals = nn.ModuleList(ResidualBlock(widths[0]) for _ in range(residuals))
        self.upsamples = nn.Sequential(*(UpsampleBlock(w) for w in widths[:-1]))
        self.output = ConvBlock(width, 3, 7, activation=nn.Tanh())

    def forward(self, code: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine`` [B, residuals, 2, 2, channels]: of the norms in the residual blocks, where they are adaptive."""
        for number, block in enumerate(self.residuals):
            code = block(code, None if affine is None else affine[:, number])
        return self.output(self.upsamples(code))


class UNITGenerator(nn.Module):
    """Encoder and decoder of one domain."""

    def __init__(self, width: int, downsamples: int, residuals: int) -> None:
        super().__init__()
        self.encoder = Encoder(width, downsamples, residuals)
        self.decoder = Decoder(width, downsamples, residuals)
        initialise(self, "kaiming")


def share_layers(one: UNITGenerator, other: UNITGenerator, count: int) -> None:
    """Make the last ``count`` residual blocks of the encoders, and the first of the decoders, the same modules.

    Raises:
        UserError: More than there are.
    """
    if count > len(one.encoder.residuals):
        raise UserError(
            f"Expected at most method.residuals={len(one.encoder.residuals)} shared layers, but found "
            f"method.shared_layers={count}: lower it."
        )
    for number in range(count):
        other.encoder.residuals[-1 - number] = one.encoder.residuals[-1 - number]
        other.decoder.residuals[number] = one.decoder.residuals[number]
