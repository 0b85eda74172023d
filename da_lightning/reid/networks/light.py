"""A small residual network that trains from scratch on two CPU cores."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from da_lightning.reid.networks.base import Backbone
from da_lightning.training.convolutions import StridedPointwise


class LightBackbone(Backbone):
    """ResNet-18 of half its width with a 5x5 stem and no pooling: 2.8 M parameters at ``width=32``.

    Maps are at stride 32 (2x1 for images of 64x32), or 16 with ``last_stride=1``.

    Args:
        width: Channels of the stem and the first stage; they double at each further stage.
        last_stride: Of the last stage.
    """

    normalisation = {"mean": [0.45] * 3, "std": [0.25] * 3}

    def __init__(self, width: PositiveInt = 32, last_stride: Literal[1, 2] = 2) -> None:
        super().__init__()
        self.channels = 8 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths, strides = (width, width, 2 * width, 4 * width, 8 * width), (2, 2, 2, last_stride)
        self.stages = nn.Sequential(
            *(_stage(*sizes) for sizes in zip(widths[:-1], widths[1:], strides, strict=True)),
        )
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(self.stem((image - 0.45) / 0.25))


def _stage(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    skip = None
    if stride != 1 or channels_in != channels:
        skip = nn.Sequential(StridedPointwise(channels_in, channels, stride, bias=False), nn.BatchNorm2d(channels))
    return nn.Sequential(BasicBlock(channels_in, channels, stride, skip), BasicBlock(channels, channels))
