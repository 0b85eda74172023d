"""Blocks of the translators, as their papers have them: convolutions, upsampling, norms of single samples.

A function under ``@faster_on_cpu`` is what is computed; on a CPU, :mod:`.fast_blocks` computes it another way.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.errors import UserError
from da_lightning.translation.networks import fast_blocks
from da_lightning.translation.networks.fast_blocks import faster_on_cpu


@faster_on_cpu(fast_blocks.instance_norm)
def instance_norm(x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Normalise each channel of each sample; then ``affine`` [B, 2, C], shift and scale, where given (AdaIN)."""
    normed = F.instance_norm(x)
    if affine is None:
        return normed
    shift, scale = affine.to(x.dtype)[..., None, None].unbind(1)
    return torch.addcmul(shift, normed, scale)


@faster_on_cpu(fast_blocks.layer_norm)
def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """See :class:`LayerNorm`; mean and deviation are float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, deviation = wide.mean((1, 2, 3), keepdim=True), wide.std((1, 2, 3), keepdim=True)
    normed = (wide - mean) / (deviation + 1e-5)
    return torch.addcmul(beta[:, None, None], normed, gamma[:, None, None]).to(x.dtype)


@faster_on_cpu(fast_blocks.reflect_conv)
def reflect_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], sides: list[int]) -> Tensor:
    """A convolution under reflect padding; ``sides`` as in ``F.pad``."""
    return F.conv2d(F.pad(x, sides, mode="reflect"), weight, bias, stride)


@faster_on_cpu(fast_blocks.upsample_conv)
def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest upsampling by two, then a 5x5 convolution under reflect padding."""
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(F.pad(doubled, (2, 2, 2, 2), mode="reflect"), weight, bias)


@faster_on_cpu(fast_blocks.add)
def add(x: Tensor, y: Tensor) -> Tensor:
    """The sum at the end of a skip connection."""
    return x + y


def beside(maps: Tensor, code: Tensor) -> Tensor:
    """A ``code`` [B, D] laid beside each position of ``maps`` [B, C, H, W]: [B, C + D, H, W]."""
    return torch.cat([maps, code[..., None, None].expand(-1, -1, *maps.shape[-2:]).to(maps.dtype)], dim=1)


def check_sides(image: Tensor, smallest: tuple[int, int], *options: str) -> None:
    """Raise a UserError where ``image`` is below ``smallest`` (H, W), which lower ``options`` would lower."""
    sides = tuple(image.shape[-2:])
    if sides[0] < smallest[0] or sides[1] < smallest[1]:
        raise UserError(
            f"Expected images of at least {smallest[0]}x{smallest[1]} pixels for the discriminator, but found "
            f"{sides[0]}x{sides[1]}: {' or '.join(('enlarge the crop', *(f'lower {option}' for option in options)))}."
        )


class ConvBlock(nn.Module):
    """Reflect padding, convolution with bias, norm, activation: [B, C, H, W] -> [B, out, ...].

    Args:
        is_normed: By :func:`instance_norm`.
        activation: ``None`` is a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        is_normed: bool = False,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = ReflectConv(in_channels, out_channels, kernel, stride, padding, padding_mode="reflect")
        self.is_normed = is_normed
        if is_normed and self.conv.bias is not None:
            # The norm takes this bias out again; Adam would turn the rounding that is its gradient into full steps.
            self.conv.bias.register_hook(torch.zeros_like)
        self.activation = activation or nn.ReLU(inplace=True)

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine`` [B, 2, out]: shift and scale of each sample after an instance norm (AdaIN), in this order."""
        x = self.conv(x)
        return self.activation(instance_norm(x, affine) if self.is_normed else x)


class UpsampleBlock(nn.Sequential):
    """Upsampling, layer norm and ReLU: [B, C, H, W] -> [B, C / 2, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        conv, norm = UpsampleConv(channels, channels // 2), LayerNorm(channels // 2)
        super().__init__(OrderedDict(conv=conv, norm=norm, activation=nn.ReLU(inplace=True)))


class ResidualBlock(nn.Module):
    """Two instance-normed 3x3 convolutions around a skip connection; nothing follows the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvBlock(width, width, 3, is_normed=True, activation=activation) for activation in (None, nn.Identity())
        )

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine`` [B, 2, 2, width]: that of each convolution's norm."""
        y = x
        for number, layer in enumerate(self.layers):
            y = layer(y, None if affine is None else affine[:, number])
        return add(x, y)


class LayerNorm(nn.Module):
    """MUNIT's layer norm, over all of a sample, with a scale and a shift a channel.

    Not ``nn.LayerNorm``: the deviation is unbiased, 1e-5 is added to it (not under the root), and the scale begins
    uniform in 0..1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.gamma, self.beta)


class ReflectConv(nn.Conv2d):
    """``nn.Conv2d`` with ``padding_mode="reflect"``."""

    def forward(self, x: Tensor) -> Tensor:
        return reflect_conv(x, self.weight, self.bias, self.stride, self._reversed_padding_repeated_twice)


class UpsampleConv(nn.Conv2d):
    """The decoders' upsampling layer: [B, C, H, W] -> [B, out, 2H, 2W], see :func:`upsample_conv`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5, padding=2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return upsample_conv(x, self.weight, self.bias)
