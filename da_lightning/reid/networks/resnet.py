"""ResNets of torchvision, as re-identification uses them."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model

from da_lightning.networks.normalise import Normalise
from da_lightning.reid.networks.base import Backbone
from da_lightning.training.weights import load_pretrained


class ResNetBackbone(Backbone):
    """Maps at stride 32, or 16 with ``last_stride=1``; parameters have torchvision's names.

    Args:
        model: ``resnet18`` (512 channels), ``resnet50`` (2048) or another plain ResNet of torchvision.
        last_stride: Of layer4.
        pretrained: ``None`` (random), ``imagenet`` (torchvision's first weights), or a state-dict file.
        frozen_stages: How many of (conv1 and layer1), layer2, layer3, layer4 get no gradient and normalise by their
            stored statistics.
        frozen_norms: ``statistics``: all batch norms normalise by their stored statistics; ``all``: their scale and
            shift are fixed as well (IDE in Caffe).

    Raises:
        UserError: Weights that cannot be downloaded, read or fitted.
    """

    def __init__(
        self,
        model: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
        last_stride: Literal[1, 2] = 2,
        pretrained: str | None = None,
        frozen_stages: Literal[0, 1, 2, 3, 4] = 0,
        frozen_norms: Literal["statistics", "all"] | None = None,
    ) -> None:
        super().__init__()
        body = get_model(model)
        self.channels, self.frozen_norms = body.fc.in_features, frozen_norms
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, body.relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        if last_stride == 1:
            for conv in (module for module in self.layer4.modules() if isinstance(module, nn.Conv2d)):
                conv.stride = (1, 1)
        self.normalise = Normalise("imagenet")
        self.normalisation = self.normalise.constants

        stages = [[self.conv1, self.bn1, self.layer1], [self.layer2], [self.layer3], [self.layer4]]
        self._frozen = [module for stage in stages[:frozen_stages] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)
        if frozen_norms == "all":
            for norm in _batch_norms(self):
                norm.requires_grad_(False)
        load_pretrained(self, model, pretrained, list(self.state_dict()))
        self.train()  # frozen norms from the start: Lightning leaves modes as they are

    def forward(self, image: Tensor) -> Tensor:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(self.normalise(image)))))
        return self.layer4(self.layer3(self.layer2(self.layer1(stem))))

    def train(self, mode: bool = True) -> "ResNetBackbone":
        super().train(mode)
        for module in [self] if self.frozen_norms else self._frozen:
            for norm in _batch_norms(module):
                norm.eval()
        return self


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
