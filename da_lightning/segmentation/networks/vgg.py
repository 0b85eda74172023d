"""DeepLab-v2 on VGG-16, as in AdaptSegNet's single-level VGG experiments (Tsai et al., CVPR 2018)."""

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

from da_lightning.networks.normalise import Normalise
from da_lightning.segmentation.networks.base import Level, SegmentationNetwork
from da_lightning.segmentation.networks.deeplab import DilatedHead
from da_lightning.training.weights import load_pretrained

_POOL = (0, 0)
_VGG = [(64, 1)] * 2 + [_POOL] + [(128, 1)] * 2 + [_POOL] + [(256, 1)] * 3 + [_POOL] + [(512, 1)] * 3  # width, dilation
_PLAN = _VGG + [(512, 2)] * 3 + [(1024, 4)] * 2  # conv5_1 to conv5_3, fc6, fc7
_TORCHVISION = {f"features.{index + 1}.": f"features.{index}." for index in (23, 25, 27)}  # its conv5 follows pool4
_FC = ("features.29.", "features.31.")  # fc6, fc7


class DeepLabVGG16(SegmentationNetwork):
    """Logits at stride 8 from float32 RGB [B,3,H,W] in [0, 1], one level; the pyramid is the last map alone.

    VGG-16 without its last two poolings; conv5 dilated by 2; fc6 and fc7 as 3x3 convolutions dilated by 4.

    Args:
        num_classes: K.
        legacy_head: See ``DilatedHead``.
        normalisation: ``imagenet`` (torchvision's weights) or ``caffe`` (weights made from BGR in 0..255).
        pretrained: None (random), ``imagenet``, or a file, for conv1_1 to conv5_3.

    Raises:
        UserError: An unknown option, or weights that cannot be downloaded, read or fitted.
    """

    strides, channels = (8,), (1024,)

    def __init__(
        self,
        num_classes: int,
        legacy_head: bool | None = None,
        normalisation: str = "imagenet",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        normalise = Normalise(normalisation)
        self.normalisation = normalise.constants
        layers = {str(number): layer for number, layer in enumerate(_layers())}
        self.features = _Features(OrderedDict(normalise=normalise, **layers))
        self.classifier = DilatedHead(1024, num_classes, legacy_head)
        names = [f"features.{name}" for name in self.features.state_dict()]
        load_pretrained(self, "vgg16", pretrained, [n for n in names if not n.startswith(_FC)], _TORCHVISION)

    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        return (Level(self.classifier(pyramid[-1])),)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All trainable parameters as ``backbone``: AdaptSegNet trains this network at one pace."""
        return {"backbone": [parameter for parameter in self.parameters() if parameter.requires_grad], "heads": []}


class _Features(nn.Sequential):
    """Called, it is the network's ``features``; official files name the layers so."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(image),)


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, rate in _PLAN:
        if width:
            conv = nn.Conv2d(channels, width, 3, padding=rate, dilation=rate)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, conv.bias))
            layers += [conv, nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return layers
