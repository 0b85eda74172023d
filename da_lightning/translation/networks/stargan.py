"""Networks of StarGAN (Choi et al., CVPR 2018); layers are numbered as in the official files."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.translation.networks.blocks import beside, check_sides, instance_norm
from da_lightning.translation.networks.cyclegan import Residual, UnetGenerator
from da_lightning.translation.weights import renamed_state


class _IntoDomain(nn.Sequential):
    """Translates an image into a domain, whose one-hot code is tiled beside the image."""

    num_domains: int

    def forward(self, image: Tensor, domain: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(beside(image, F.one_hot(domain, self.num_domains)))


class StarGenerator(_IntoDomain):
    """The paper's: halves the sides twice, transforms in residual blocks, doubles them again."""

    def __init__(self, num_domains: int, width: int = 64, residuals: int = 6) -> None:
        def residual() -> Residual:
            first, second = (nn.Conv2d(4 * width, 4 * width, 3, padding=1, bias=False) for _ in range(2))
            return Residual(*_normed(first), second, AffineInstanceNorm(4 * width))

        super().__init__(
            *_normed(nn.Conv2d(3 + num_domains, width, 7, padding=3, bias=False)),
            *_normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)),
            *_normed(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False)),
            *(residual() for _ in range(residuals)),
            *_normed(nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False)),
            *_normed(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False)),
            nn.Conv2d(width, 3, 7, padding=3, bias=False),
            nn.Tanh(),
        )
        self.num_domains = num_domains


class StarUnetGenerator(_IntoDomain, UnetGenerator):
    """The same task for a U-Net, whose first connection carries colours around the instance norms."""

    def __init__(self, num_domains: int, width: int = 64, halvings: int = 8) -> None:
        super().__init__(width, halvings, inputs=3 + num_domains)
        self.num_domains = num_domains


class StarDiscriminator(nn.Module):
    """A critic and a classifier of domains on one trunk.

    Args:
        num_domains: Classes.
        width: Channels of the first layer; they double with each layer.
        layers: Convolutions of stride 2.
        class_kernel: Side, or (height, width), of the window of the maps that gives class logits; over larger maps they
            are averaged.

    Raises:
        UserError: An image too small for the window.
    """

    def __init__(
        self, num_domains: int, width: int = 64, layers: int = 6, class_kernel: int | tuple[int, int] = 2
    ) -> None:
        super().__init__()
        widths = [3, *(width * 2**layer for layer in range(layers))]
        self.trunk = nn.Sequential()
        for narrow, wide in zip(widths[:-1], widths[1:], strict=True):
            self.trunk.extend([nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.LeakyReLU(0.01)])
        self.realness = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        self.classes = nn.Conv2d(widths[-1], num_domains, class_kernel, bias=False)
        height, width = self.classes.kernel_size
        self.smallest = height * 2**layers, width * 2**layers

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unbounded realness [B, 1, h, w] and class logits [B, num_domains]."""
        check_sides(image, self.smallest, "method.discriminator_layers", "method.class_kernel")
        maps = self.trunk(image)
        return self.realness(maps), self.classes(maps).mean((2, 3))


def official_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in an official file of one network, under our names."""
    of_discriminator = [("^main", "trunk"), ("^conv1", "realness"), ("^conv2", "classes")]
    return renamed_state(content, of_discriminator if "conv2.weight" in content else [(r"\bmain\.", "")])


class AffineInstanceNorm(nn.Module):
    """With a scale and a shift a channel, see :func:`~da_lightning.translation.networks.blocks.instance_norm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        # Not len(maps), which an exported graph would hold fixed.
        return instance_norm(maps, torch.stack((self.bias, self.weight)).expand(maps.shape[0], -1, -1))


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, AffineInstanceNorm(convolution.out_channels), nn.ReLU()]
