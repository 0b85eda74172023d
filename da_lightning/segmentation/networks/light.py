"""A small encoder-decoder that trains from scratch on two CPU cores."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.arguments import Share
from da_lightning.segmentation.networks.base import Level, SegmentationNetwork
from da_lightning.training.convolutions import StridedPointwise


class LightNet(SegmentationNetwork):
    """Residual encoder to stride 16, decoder with skips to stride 4; 1.1 M parameters at ``width=16``.

    Args:
        num_classes: K.
        width: Channels at stride 2; they double at each further stride.
        dropout: Share of feature maps dropped before the classifier.
        multi_level: Also classify the stride-8 decoder features, as the auxiliary level.
    """

    normalisation = {"mean": [0.45] * 3, "std": [0.25] * 3}
    strides = (4, 8, 16)

    def __init__(
        self, num_classes: int, width: PositiveInt = 16, dropout: Share = 0.0, multi_level: bool = False
    ) -> None:
        super().__init__()
        self.channels = (2 * width, 4 * width, 8 * width)
        self.stem = _conv(3, width, stride=2)
        self.stage4 = _Residual(width, 2 * width, stride=2)
        self.stage8 = _Residual(2 * width, 4 * width, stride=2)
        self.stage16 = nn.Sequential(
            _Residual(4 * width, 8 * width, stride=2), _Residual(8 * width, 8 * width), _Residual(8 * width, 8 * width)
        )
        self.fuse8 = _conv(12 * width, 4 * width)
        self.fuse4 = _conv(6 * width, 4 * width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(4 * width, num_classes, 1)
        self.auxiliary = nn.Conv2d(4 * width, num_classes, 1) if multi_level else None

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        x4 = self.stage4(self.stem((image - 0.45) / 0.25))
        x8 = self.stage8(x4)
        return x4, x8, self.stage16(x8)

    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        """Logits at stride 4, perhaps auxiliary ones at stride 8."""
        x4, x8, x16 = pyramid
        y8 = self.fuse8(torch.cat([_upsample(x16, x8), x8], 1))
        y4 = self.fuse4(torch.cat([_upsample(y8, x4), x4], 1))
        main = Level(self.classifier(self.dropout(y4)))
        return (main,) if self.auxiliary is None else (main, Level(self.auxiliary(self.dropout(y8))))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Everything is trained from scratch: one pace for all."""
        return {"backbone": list(self.parameters()), "heads": []}


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels_in, channels_out, stride), _conv(channels_out, channels_out, act=False)
        )
        same = channels_in == channels_out and stride == 1
        self.skip = nn.Identity() if same else _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(StridedPointwise(channels_in, channels_out, stride, bias=False), nn.BatchNorm2d(channels_out))


def _conv(channels_in: int, channels_out: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
