"""Backbones of timm."""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt
from torch import Tensor

from da_lightning.networks.timm_features import TimmFeatures
from da_lightning.reid.networks.base import Backbone


class TimmBackbone(Backbone):
    """The last feature map of any model of timm that has features.

    Args:
        model: timm's name, such as ``tf_efficientnet_lite0``.
        pretrained, multiple, options: See :class:`~da_lightning.networks.timm_features.TimmFeatures`.

    Raises:
        UserError: See :class:`~da_lightning.networks.timm_features.TimmFeatures`.
    """

    def __init__(
        self,
        model: str,
        pretrained: str | None = None,
        multiple: PositiveInt | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.body = TimmFeatures(model, pretrained, multiple, options, "method.backbone")
        self.channels, self.normalisation = self.body.channels[-1], self.body.normalisation

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)[-1]
