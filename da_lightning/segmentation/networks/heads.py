"""What stands on a backbone's pyramid and makes logits of it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.arguments import Share
from da_lightning.errors import UserError
from da_lightning.networks.base import Network
from da_lightning.segmentation.networks.deeplab import DilatedHead

NormKind = Literal["batch", "group"]


class Head(Network):
    """A pyramid of maps [B, C, h, w] to logits [B, K, h, w] at the stride of one of them.

    A subclass takes ``num_classes``, ``channels`` and ``strides`` of the pyramid, beside its own options.
    """

    @abstractmethod
    def forward(self, pyramid: Sequence[Tensor]) -> Tensor: ...


HeadOptions = Mapping[str, Any] | Head
"""``{"_target_": a class derived from Head, ...}``; the network builds it."""


class DAFormerHead(Head):
    """DAFormer's decoder (Hoyer et al., CVPR 2022): all maps at one stride, then a separable ASPP; names as there.

    Args:
        num_classes, channels, strides: See :class:`Head`; maps finer than stride 4 are left out.
        width: Channels that each map is brought to, and of the fused one.
        rates: Dilations of the ASPP's branches; a branch of rate 1 is a 1x1 convolution.
        dropout: Share of feature maps dropped before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int],
        strides: Sequence[int],
        width: PositiveInt = 256,
        rates: Sequence[PositiveInt] = (1, 6, 12, 18),
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        self.first = next((number for number, stride in enumerate(strides) if stride >= 4), len(strides))
        used = channels[self.first :]
        if not used:
            raise UserError(
                f"Expected a map of stride 4 or more for the DAFormer head, but the backbone has {list(strides)}: "
                "choose another backbone or head."
            )
        self.embed_layers = nn.ModuleList(_Named(proj=nn.Linear(count, width)) for count in used)
        self.fuse_layer = _SeparableASPP(len(used) * width, width, rates)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        maps = pyramid[self.first :]
        embedded = [
            part(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for part, features in zip(self.embed_layers, maps, strict=True)
        ]
        return self.conv_seg(self.dropout(self.fuse_layer(_joined(embedded))))


class LightHead(Head):
    """A small decoder for two CPU cores: a separable ASPP at stride 8 for context, one map at stride 4 for detail.

    Group norm, since batches are small, and since batch norm in a decoder adapts badly (DAFormer).

    Args:
        num_classes, channels, strides: See :class:`Head`.
        width: Channels of context and detail.
        rates: See :class:`DAFormerHead`.
        dropout: Share of feature maps dropped before the classifier.

    Raises:
        UserError: The pyramid has no map of stride 4, or none of stride 8 or more.
    """

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int],
        strides: Sequence[int],
        width: PositiveInt = 96,
        rates: Sequence[PositiveInt] = (1, 3, 6),
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        coarse = [number for number, stride in enumerate(strides) if stride >= 8]
        if 4 not in strides or not coarse:
            raise UserError(
                f"Expected maps of stride 4 and of stride 8 or more for the light head, but the backbone has "
                f"{list(strides)}: choose another head, such as method.network.head._target_={__name__}.PlainHead."
            )
        self.fine, self.coarse = list(strides).index(4), coarse
        self.context = nn.ModuleList(nn.Conv2d(channels[number], width, 1) for number in coarse)
        self.aspp = _SeparableASPP(len(coarse) * width, width, rates, "group")
        self.detail = _conv(channels[self.fine], width, 1, norm="group")
        self.fuse = _separable(2 * width, width, 1, "group")
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        coarse = [conv(pyramid[number]) for conv, number in zip(self.context, self.coarse, strict=True)]
        both = [self.detail(pyramid[self.fine]), self.aspp(_joined(coarse))]
        return self.classifier(self.dropout(self.fuse(_joined(both))))


class DeepLabHead(Head):
    """DeepLab-v2's atrous pyramid on the last map.

    Args:
        num_classes, channels, strides: See :class:`Head`.
        legacy: See :class:`~da_lightning.segmentation.networks.deeplab.DilatedHead`.
    """

    def __init__(
        self, num_classes: int, channels: Sequence[int], strides: Sequence[int], legacy: bool | None = None
    ) -> None:
        super().__init__()
        self.aspp = DilatedHead(channels[-1], num_classes, legacy)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.aspp(pyramid[-1])


class PlainHead(Head):
    """A linear classifier of the last map, as vision transformers have it.

    Args:
        num_classes, channels, strides: See :class:`Head`.
        dropout: Share of feature maps dropped before the classifier.
    """

    def __init__(self, num_classes: int, channels: Sequence[int], strides: Sequence[int], dropout: Share = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(pyramid[-1]))


class _SeparableASPP(nn.Module):
    def __init__(self, inputs: int, width: int, rates: Sequence[int], norm: NormKind = "batch") -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            _conv(inputs, width, 1, norm=norm) if rate == 1 else _separable(inputs, width, rate, norm) for rate in rates
        )
        self.bottleneck = _conv(len(rates) * width, width, 3, padding=1, norm=norm)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([branch(maps) for branch in self.aspp_modules], 1))


class _Named(nn.ModuleDict):
    """Modules under the names of the official code, applied one after another."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.values():
            x = part(x)
        return x


def _conv(inputs: int, outputs: int, kernel: int, norm: NormKind = "batch", **options: Any) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    bn = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(_groups(outputs), outputs)
    return _Named(conv=conv, bn=bn, act=nn.ReLU())


def _separable(inputs: int, outputs: int, rate: int, norm: NormKind) -> nn.Module:
    depthwise = _conv(inputs, inputs, 3, norm, padding=rate, dilation=rate, groups=inputs)
    return _Named(depthwise_conv=depthwise, pointwise_conv=_conv(inputs, outputs, 1, norm))


def _groups(channels: int) -> int:
    """Groups of about 8 channels."""
    return next(count for count in range(max(1, channels // 8), 0, -1) if channels % count == 0)


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """All channels at the size of the first map."""
    first, *others = maps
    size = first.shape[-2:]
    return torch.cat([first, *(F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in others)], 1)
