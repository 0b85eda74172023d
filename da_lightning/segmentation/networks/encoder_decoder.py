"""A backbone with several maps, and a head on them."""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.networks.base import build_part
from da_lightning.networks.timm_features import TimmFeatures
from da_lightning.segmentation.networks.base import Level, SegmentationNetwork
from da_lightning.segmentation.networks.heads import Head, HeadOptions, PlainHead
from da_lightning.segmentation.networks.mix_transformer import MixTransformer


class EncoderDecoder(SegmentationNetwork):
    """Main logits by ``head``; auxiliary ones, where wanted, by a linear classifier of the map before the last.

    Args:
        backbone: Takes RGB in [0, 1], gives the pyramid; says ``channels``, ``strides``, ``normalisation`` and
            ``is_sized``.
        num_classes: K.
        head: ``{"_target_": ..., ...}``, see :mod:`~da_lightning.segmentation.networks.heads`.
        multi_level: Adds the auxiliary level.

    Raises:
        UserError: A head that cannot take the pyramid; an auxiliary level where there is one map.
    """

    def __init__(self, backbone: Any, num_classes: int, head: HeadOptions, multi_level: bool = False) -> None:
        super().__init__()
        if isinstance(backbone, str | Mapping):
            raise UserError(
                "method.network._target_=EncoderDecoder takes a backbone that is built already: name "
                "TimmNetwork, MiTNetwork, or a class of your own."
            )
        self.backbone = backbone
        self.channels, self.strides = backbone.channels, backbone.strides
        self.normalisation = backbone.normalisation
        self.is_sized = backbone.is_sized
        given = {"num_classes": num_classes, "channels": self.channels, "strides": self.strides}
        self.head = build_part(head, Head, "method.network.head", **given)  # type: ignore[type-abstract]
        self.auxiliary: nn.Module | None = None
        if multi_level:
            if len(self.channels) < 2:
                raise UserError(
                    "method.network.multi_level=true needs a backbone with two maps at least, and this one has one: "
                    "set it to false (and method.levels=1)."
                )
            self.auxiliary = PlainHead(num_classes, self.channels[:-1], self.strides[:-1])

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(image)

    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        main = Level(self.head(pyramid))
        return (main,) if self.auxiliary is None else (main, Level(self.auxiliary(pyramid[:-1])))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of the backbone, and of what stands on it."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "heads": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["backbone" if name.startswith("backbone.") else "heads"].append(parameter)
        return groups


class TimmNetwork(EncoderDecoder):
    """Any model of timm that has features, under a head.

    Args:
        num_classes: K.
        backbone: timm's name, such as ``tf_efficientnet_lite0``.
        head, multi_level: See :class:`EncoderDecoder`.
        pretrained, multiple, options: See :class:`~da_lightning.networks.timm_features.TimmFeatures`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str,
        head: HeadOptions,
        multi_level: bool = False,
        pretrained: str | None = None,
        multiple: PositiveInt | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        body = TimmFeatures(backbone, pretrained, multiple, options, "method.network")
        super().__init__(body, num_classes, head, multi_level)


class MiTNetwork(EncoderDecoder):
    """SegFormer's Mix Transformer under a head: with the DAFormer head it is DAFormer's network.

    Args:
        num_classes: K.
        backbone: ``mit_b0`` to ``mit_b5``.
        head, multi_level: See :class:`EncoderDecoder`.
        pretrained: A file of weights, official or of transformers; ``None`` for random ones.
        drop_path: See :class:`~da_lightning.segmentation.networks.mix_transformer.MixTransformer`.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str,
        head: HeadOptions,
        multi_level: bool = False,
        pretrained: str | None = None,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__(MixTransformer(backbone, drop_path, pretrained), num_classes, head, multi_level)
