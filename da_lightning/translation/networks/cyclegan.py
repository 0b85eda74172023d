"""Generators and discriminator of CycleGAN (Zhu et al., ICCV 2017): layers are numbered as in the official files."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.translation.networks.blocks import check_sides, instance_norm
from da_lightning.translation.weights import renamed_state

GeneratorName = Literal["resnet", "unet"]


class InstanceNorm(nn.Module):
    """See :func:`~da_lightning.translation.networks.blocks.instance_norm`."""

    def forward(self, maps: Tensor) -> Tensor:
        return instance_norm(maps)


class Residual(nn.Sequential):
    """Layers that add to what they are given."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps + super().forward(maps)


def residual_block(channels: int) -> Residual:
    """Two 3x3 convolutions with instance norm, [B, channels, H, W] -> the same."""
    first, second = nn.Conv2d(channels, channels, 3), nn.Conv2d(channels, channels, 3)
    return Residual(nn.ReflectionPad2d(1), *_normed(first), nn.ReflectionPad2d(1), second, InstanceNorm())


class ResnetGenerator(nn.Sequential):
    """Halves the sides twice, transforms in residual blocks, doubles them again."""

    def __init__(self, width: int = 64, residuals: int = 9) -> None:
        super().__init__(
            nn.ReflectionPad2d(3),
            *_normed(nn.Conv2d(3, width, 7)),
            *_normed(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)),
            *_normed(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)),
            *(residual_block(4 * width) for _ in range(residuals)),
            *_normed(nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, padding=1, output_padding=1)),
            *_normed(nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, 3, 7),
            nn.Tanh(),
        )


class _Skip(nn.Sequential):
    """Layers whose output is laid beside their input."""

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, super().forward(maps)], dim=1)


class UnetGenerator(nn.Sequential):
    """Halves the sides ``halvings`` (2 or more) times, with a connection across at each size."""

    def __init__(self, width: int = 64, halvings: int = 8, inputs: int = 3) -> None:
        if halvings < 2:
            raise UserError(f"method.halvings={halvings} leaves a U-Net nothing to connect: give 2 or more.")
        widths = [width * min(2**level, 8) for level in range(halvings)]
        inner: list[nn.Module] = []
        for outside, inside in zip(widths[-2::-1], widths[:0:-1], strict=True):
            down, up = _halving(outside, inside), _doubling(inside * (2 if inner else 1), outside)
            norm = [InstanceNorm()] if inner else []  # innermost, a single position may be left
            inner = [_Skip(nn.LeakyReLU(0.2), down, *norm, *inner, nn.ReLU(), up, InstanceNorm())]
        super().__init__(_halving(inputs, width), *inner, nn.ReLU(), _doubling(2 * width, 3), nn.Tanh())


class PatchDiscriminator(nn.Sequential):
    """Judges patches of 70 pixels: image [B, 3, H, W] -> raw scores [B, 1, H // 8 - 2, W // 8 - 2].

    Raises:
        UserError: A side is below 24 pixels.
    """

    def __init__(self, width: int = 64) -> None:
        layers: list[nn.Module] = [_halving(3, width), nn.LeakyReLU(0.2, inplace=True)]
        for channels, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            convolution = nn.Conv2d(channels, 2 * channels, 4, stride=stride, padding=1)
            layers += [convolution, InstanceNorm(), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        check_sides(image, (24, 24))
        return super().forward(image)


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, InstanceNorm(), nn.ReLU(inplace=True)]


def _halving(channels: int, wider: int) -> nn.Conv2d:
    return nn.Conv2d(channels, wider, 4, stride=2, padding=1)


def _doubling(channels: int, narrower: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, narrower, 4, stride=2, padding=1)


def official_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in an official file of one network, under our names."""
    return renamed_state(content, [(r"\b(model|conv_block)\.", "")])
