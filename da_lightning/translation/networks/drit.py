"""Networks of DRIT++ (Lee et al., IJCV 2020); layers are numbered as in the official file.

Content codes are [B, C, H / 4, W / 4], attribute codes [B, style_dim].
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.translation.module import DOMAINS, Domain
from da_lightning.translation.networks.blocks import beside
from da_lightning.translation.networks.cyclegan import InstanceNorm, residual_block
from da_lightning.translation.weights import Patterns, renamed

SLOPE = 0.01
"""Of every leaky ReLU but those of the attribute encoder."""


class ContentEncoder(nn.Module):
    """Layers of each domain, then shared ones; in training the code carries N(0, 1) noise."""

    def __init__(self, width: int = 64, residuals: int = 3) -> None:
        super().__init__()

        def own() -> nn.Module:
            first = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.LeakyReLU(SLOPE))
            blocks = (residual_block(4 * width) for _ in range(residuals))
            return nn.Sequential(first, _halving(width), _halving(2 * width), *blocks)

        self.own = nn.ModuleDict({domain: own() for domain in DOMAINS})
        self.shared = nn.Sequential(residual_block(4 * width))

    def forward(self, image: Tensor, domain: Domain) -> Tensor:
        content = self.shared(self.own[domain](image))
        return content + torch.randn_like(content) if self.training else content


class AttributeEncoder(nn.Module):
    """The distribution N(mean, exp(log_variance)) of an image's attribute code, both [B, style_dim]."""

    def __init__(self, width: int = 64, style_dim: int = 8) -> None:
        super().__init__()
        widths = [width, 2 * width, 3 * width, 4 * width]
        self.features = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, width, 4, stride=2),
            *(_HalvingBlock(*pair) for pair in pairwise(widths)),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.mean, self.log_variance = nn.Linear(widths[-1], style_dim), nn.Linear(widths[-1], style_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(image)
        return self.mean(features).float(), self.log_variance(features).float()


class PointAttributeEncoder(nn.Module):
    """The attribute code [B, style_dim] of an image as one point, for :class:`FeatureWiseGenerator`."""

    def __init__(self, width: int = 64, style_dim: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.ReLU()]
        widths = [width, 2 * width, 4 * width, 4 * width, 4 * width]
        for channels, wider in pairwise(widths):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, wider, 4, stride=2), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, style_dim, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image).flatten(1).float()


class ConcatGenerator(nn.Module):
    """Lays the attribute code beside the maps before each stage, which keeps shapes."""

    def __init__(self, width: int = 64, style_dim: int = 8, residuals: int = 3) -> None:
        super().__init__()

        def stages() -> nn.Module:
            first = 4 * width + style_dim
            second = (first + style_dim) // 2
            third = (second + style_dim) // 2
            blocks = nn.Sequential(*(residual_block(first) for _ in range(residuals)))
            ups = [
                nn.Sequential(_doubling(*pair)) for pair in ((first + style_dim, second), (second + style_dim, third))
            ]
            last = nn.Sequential(nn.ConvTranspose2d(third + style_dim, 3, 1), nn.Tanh())
            return nn.ModuleList([blocks, *ups, last])

        self.shared = nn.Sequential(residual_block(4 * width))
        self.stages = nn.ModuleDict({domain: stages() for domain in DOMAINS})

    def forward(self, content: Tensor, style: Tensor, to: Domain) -> Tensor:
        """RGB in -1..1."""
        maps = self.shared(content)
        for stage in self.stages[to].children():
            maps = stage(beside(maps, style))
        return maps


class FeatureWiseGenerator(nn.Module):
    """Mixes the attribute code into the features of each residual block, which lets shapes change."""

    def __init__(self, width: int = 64, style_dim: int = 8, residuals: int = 3) -> None:
        super().__init__()
        channels, count = 4 * width, residuals + 1

        def mlp() -> nn.Module:
            first, second = nn.Linear(style_dim, channels), nn.Linear(channels, channels)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(channels, count * channels))

        def stages() -> nn.Module:
            up = _doubling(channels, channels // 2), _doubling(channels // 2, channels // 4)
            last = nn.Sequential(*up, nn.ConvTranspose2d(channels // 4, 3, 1), nn.Tanh())
            return nn.ModuleList([*(_MixingBlock(channels) for _ in range(count)), last])

        self.mlps = nn.ModuleDict({domain: mlp() for domain in DOMAINS})
        self.stages = nn.ModuleDict({domain: stages() for domain in DOMAINS})

    def forward(self, content: Tensor, style: Tensor, to: Domain) -> Tensor:
        """RGB in -1..1."""
        *blocks, last = self.stages[to].children()
        maps = content
        for block, code in zip(blocks, self.mlps[to](style).chunk(len(blocks), dim=1), strict=True):
            maps = block(maps, code)
        return last(maps)


class ContentDiscriminator(nn.Sequential):
    """Tells the domain of a content code: raw scores [B, 1, h, w].

    Args:
        channels: Of the code.
        layers: Convolutions of stride 2, with windows of 7x7.

    Raises:
        UserError: A code too small for as many layers.
    """

    def __init__(self, channels: int = 256, layers: int = 3) -> None:
        strided = [
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 7, stride=2), nn.LeakyReLU(SLOPE))
            for _ in range(layers)
        ]
        # Unpadded, but numbered like the others.
        last = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels, 4), nn.LeakyReLU(SLOPE))
        super().__init__(*strided, last, nn.Conv2d(channels, 1, 1))
        self.smallest = 7 * 2**layers - 3

    def forward(self, content: Tensor) -> Tensor:
        if min(content.shape[-2:]) < self.smallest:
            raise UserError(
                f"Expected images of at least {4 * self.smallest} pixels a side for the content discriminator, but "
                f"found {4 * content.shape[-2]}x{4 * content.shape[-1]}: enlarge the crop, or lower "
                "method.content_layers."
            )
        return super().forward(content)


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 0.02); all else stays as torch has it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)


_RENAMED: Patterns = [
    (r"\.Diss\.(.*)\.model\.1", r".Diss.\1.conv"),
    (r"\.model(?=\.)", ""),
    (r"^enc_c\.conv_share", "content_encoder.shared"),
    (r"^enc_c\.conv(A|B)", r"content_encoder.own.\1"),
    (r"^enc_a\.(?:conv|model)_(A|B|a|b)", r"attribute_encoders.\1.features"),
    (r"^enc_a\.fc_(A|B)\.0", r"attribute_encoders.\1.mean"),
    (r"^enc_a\.fcVar_(A|B)\.0", r"attribute_encoders.\1.log_variance"),
    (r"^gen\.dec_share", "generator.shared"),
    (r"^gen\.mlp(A|B)", r"generator.mlps.\1"),
    (r"^gen\.dec(A|B)(\d)", lambda match: f"generator.stages.{match[1]}.{int(match[2]) - 1}"),
    (r"^disContent", "content_discriminator"),
    (r"^dis(A|B)\.Diss", r"discriminators.\1.scales"),
    (r"^dis(A|B)2\.Diss", r"random_discriminators.\1.scales"),
    (r"\.[Aa]\.", ".source."),
    (r"\.[Bb]\.", ".target."),
]
"""Names in the official code, and ours, applied in this order."""


def official_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in an official file, a state dict a network, under the names of :class:`DRIT`."""
    networks = [name for name in content if name.startswith(("enc_", "gen", "dis")) and not name.endswith("_opt")]
    state = {}
    for network in networks:
        for official, value in content[network].items():
            name = renamed(f"{network}.{official}", _RENAMED)
            state[name] = value.flatten() if value.ndim == 3 else value  # layer norms are of shape [C, 1, 1]
    return state


class _HalvingBlock(nn.Module):
    """Convolutions and average pooling beside a shortcut."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        first = nn.LeakyReLU(0.2), nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)
        second = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, wider, 3), nn.AvgPool2d(2))
        self.conv = nn.Sequential(*first, nn.LeakyReLU(0.2), second)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, wider, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(maps) + self.shortcut(maps)


class _MixingBlock(nn.Module):
    """A residual block whose maps are mixed with the code after each 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def convolution() -> nn.Module:
            padded = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3))
            return nn.Sequential(padded, InstanceNorm())

        def mixer() -> nn.Module:
            first, second = nn.Conv2d(2 * channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

        self.conv1, self.blk1, self.conv2, self.blk2 = convolution(), mixer(), convolution(), mixer()

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        mixed = self.blk1(beside(self.conv1(maps), code))
        return maps + self.blk2(beside(self.conv2(mixed), code))


def _halving(channels: int) -> nn.Module:
    convolution = nn.Conv2d(channels, 2 * channels, 3, stride=2)
    return nn.Sequential(nn.ReflectionPad2d(1), convolution, InstanceNorm(), nn.ReLU())


def _doubling(channels: int, narrower: int) -> nn.Module:
    convolution = nn.ConvTranspose2d(channels, narrower, 3, stride=2, padding=1, output_padding=1)
    # One group is layer norm over channels and positions, with a scale and a shift a channel.
    return nn.Sequential(convolution, nn.GroupNorm(1, narrower), nn.ReLU())
