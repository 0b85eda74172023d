"""What all backbones share."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from da_lightning.networks.base import Network


class Backbone(Network):
    """Images float32 RGB [B, 3, H, W] in [0, 1] to feature maps [B, channels, h, w]; normalising is its first step."""

    channels: int

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor: ...


BackboneOptions = Mapping[str, Any] | Backbone
"""``{"_target_": a class derived from Backbone, ...}``; the method builds it."""
