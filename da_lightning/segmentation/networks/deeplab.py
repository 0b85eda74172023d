"""DeepLab-v2 (Chen et al., TPAMI 2018) with ResNet bodies, as AdaptSegNet (Tsai et al., CVPR 2018) uses it."""

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, get_model, resnet101

from da_lightning.errors import UserError
from da_lightning.networks.normalise import Normalise
from da_lightning.segmentation.networks.base import Level, SegmentationNetwork
from da_lightning.training.weights import load_pretrained

BACKBONES = ("resnet18", "resnet50", "resnet101", "resnet101_caffe")
HEADS = ("layer5.", "layer6.")  # official names: auxiliary head on layer3, main head on layer4


class DilatedHead(nn.Module):
    """Sum of 3x3 convolutions with dilation 6, 12, 18, 24: [B,C,h,w] -> logits [B,K,h,w].

    AdaptSegNet's released code returns after the first two, and its weights need that: ``legacy=True``. With ``None``
    all four are summed until weights are loaded that say otherwise. The choice is part of the state dict.
    """

    def __init__(self, in_channels: int, num_classes: int, legacy: bool | None = None) -> None:
        super().__init__()
        convs = [nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in (6, 12, 18, 24)]
        for conv in convs:
            nn.init.normal_(conv.weight, std=0.01)
        self.conv2d_list = nn.ModuleList(convs)
        self.settled = legacy is not None
        self._sum_two(bool(legacy))

    def forward(self, features: Tensor) -> Tensor:
        return sum(conv(features) for conv in list(self.conv2d_list)[: 2 if self.legacy else 4])

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.legacy)

    def set_extra_state(self, state: Tensor) -> None:
        if not self.settled:
            self._sum_two(bool(state))

    def _sum_two(self, legacy: bool) -> None:
        self.legacy = legacy
        # Branches outside the sum get no gradient, which DDP must know beforehand.
        trained = next(self.conv2d_list.parameters()).requires_grad
        self.conv2d_list[2:].requires_grad_(trained and not legacy)


class DeepLabV2(SegmentationNetwork):
    """Logits at stride 8 from float32 RGB [B,3,H,W] in [0, 1]: a main level, perhaps an auxiliary one.

    Args:
        num_classes: K.
        backbone: ``resnet18``, ``resnet50`` or ``resnet101`` as in torchvision with layers 3 and 4 dilated, or
            ``resnet101_caffe``, the body of the official AdaptSegNet weights. Its tensors have the names and shapes of
            ``resnet101``, yet it is another function: weights of one in the other load and fail silently.
        multi_level: Adds the auxiliary head on layer3.
        legacy_head: See ``DilatedHead``.
        bn_affine: ``frozen`` or ``learned`` scale and shift.
        bn_stats: ``batch`` (train mode normalises by the batch and updates the running statistics, as AdaptSegNet does)
            or ``frozen`` (always the stored statistics, as CBST does).
        pretrained: None (random), ``imagenet`` (torchvision's first weights), or a state-dict file for the backbone.

    Raises:
        UserError: An unknown option, or weights that cannot be downloaded, read or fitted.
    """

    strides = (4, 8, 8, 8)

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet101",
        multi_level: bool = True,
        legacy_head: bool | None = None,
        bn_affine: str = "frozen",
        bn_stats: str = "batch",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        options = {
            "backbone": (backbone, BACKBONES),
            "bn_affine": (bn_affine, ("frozen", "learned")),
            "bn_stats": (bn_stats, ("batch", "frozen")),
        }
        for option, (value, allowed) in options.items():
            if value not in allowed:
                raise UserError(f"Expected {option} to be one of {', '.join(allowed)}, but found {value!r}; change it.")
        caffe = backbone == "resnet101_caffe"
        if caffe and pretrained == "imagenet":
            raise UserError(
                "Expected a local file of Caffe weights for resnet101_caffe, but found pretrained='imagenet', which "
                "is made for torchvision's ResNet; give a path, or set backbone to resnet101."
            )
        self.bn_stats = bn_stats
        self.normalise = Normalise("caffe" if caffe else "imagenet")
        self.normalisation = self.normalise.constants
        # With ceil-mode pooling one graph is right for multiples of 4 alone.
        self.export_multiple = 4 if caffe else 1
        body = _caffe_resnet101() if caffe else _dilated_resnet(backbone)
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        channels = body.fc.in_features
        self.channels = tuple(channels // size for size in (8, 4, 2, 1))
        self.layer5 = DilatedHead(channels // 2, num_classes, legacy_head) if multi_level else None
        self.layer6 = DilatedHead(channels, num_classes, legacy_head)

        for norm in self._batch_norms():
            norm.requires_grad_(bn_affine == "learned")
        self.train()
        load_pretrained(self, backbone, pretrained, [name for name in self.state_dict() if not name.startswith(HEADS)])

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        fine = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(image))))))
        low = self.layer2(fine)
        middle = self.layer3(low)
        return fine, low, middle, self.layer4(middle)

    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        main = Level(self.layer6(pyramid[-1]))
        return (main, Level(self.layer5(pyramid[-2]))) if self.layer5 else (main,)

    def train(self, mode: bool = True) -> "DeepLabV2":
        super().train(mode)
        if self.bn_stats == "frozen":  # whoever calls train(): Lightning does so around every validation
            for norm in self._batch_norms():
                norm.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters as ``backbone`` and ``heads``, each once."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "heads": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["heads" if name.startswith(HEADS) else "backbone"].append(parameter)
        return groups

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]


def _caffe_resnet101() -> ResNet:
    """Stride on the first 1x1, dilation in every block of layers 3 and 4, ceil-mode pooling: 8k+1-like sizes."""
    body = resnet101(replace_stride_with_dilation=[False, True, True])
    body.maxpool.ceil_mode = True
    body.layer2[0].conv1.stride, body.layer2[0].conv2.stride = (2, 2), (1, 1)
    for conv, rate in ((body.layer3[0].conv2, 2), (body.layer4[0].conv2, 4)):  # torchvision dilates from block 1 on
        conv.dilation = conv.padding = (rate, rate)
    return body


def _dilated_resnet(name: str) -> ResNet:
    """torchvision's ``replace_stride_with_dilation`` for layers 3 and 4, which it does not offer for BasicBlock."""
    body = get_model(name)
    for layer, before, after in ((body.layer3, 1, 2), (body.layer4, 2, 4)):
        for conv in (module for module in layer.modules() if isinstance(module, nn.Conv2d)):
            # The convolution that had the stride still sees the old grid: pretrained filters keep their meaning.
            rate = before if conv.stride == (2, 2) else after
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)
    return body
