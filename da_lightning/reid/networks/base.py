"""What all backbones share."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Images float32 RGB [B, 3, H, W] in [0, 1] to feature maps [B, channels, h, w]; normalising is its first step."""

    channels: int

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor: ...
