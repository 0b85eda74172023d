"""What all backbones share."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from da_lightning.training.exportable import Normalisation


class Backbone(nn.Module, ABC):
    """Images float32 RGB [B, 3, H, W] in [0, 1] to feature maps [B, channels, h, w]; normalising is its first step."""

    channels: int
    normalisation: Normalisation | None = None
    """By which mean and deviation, for those who want to know."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor: ...
