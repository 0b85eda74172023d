"""Distance of VGG-16 features, the same whatever the domain (MUNIT, appendix)."""

import torch
from torch import Tensor, nn
from torchvision.models import vgg16
from torchvision.transforms.v2.functional import normalize

from da_lightning.errors import CheckpointError
from da_lightning.training.checkpoints import read_checkpoint
from da_lightning.training.weights import imagenet_state_dict
from da_lightning.translation.networks.blocks import instance_norm

_POOL4, _RELU5_3 = 23, 29


class PerceptualDistance(nn.Module):
    """Squared differences of instance-normed relu5_3 maps of two images in -1..1: [B, 512, H/8, W/8], in float32.

    As in the official code, no pooling comes between conv4 and conv5. Its weights were converted from Caffe; with
    torchvision's, ``perceptual_weight`` has another scale.

    Args:
        weights: ``imagenet``, fetched by torchvision, or a file with a state dict of its ``vgg16``.

    Raises:
        UserError: Weights that cannot be downloaded, read or fitted.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        with torch.device("meta"):  # the classifier alone would be half a gigabyte
            self.features = vgg16().features[: _RELU5_3 + 1]
        download = weights == "imagenet"
        state = imagenet_state_dict("vgg16", "method.perceptual_features") if download else read_checkpoint(weights)
        own = {name: state.get(f"features.{name}") for name in self.features.state_dict()}
        if missing := [name for name, value in own.items() if not isinstance(value, Tensor)]:
            raise CheckpointError(
                f"Expected a state dict of torchvision's vgg16 in {weights}, but it has no features.{missing[0]}: "
                "set method.perceptual_features to imagenet or to such a file."
            )
        self.features.load_state_dict(own, assign=True)
        self.features[_POOL4] = nn.Identity()
        self.requires_grad_(False)

    def forward(self, image: Tensor, wanted: Tensor) -> Tensor:
        """``wanted`` gets no gradient."""
        with torch.no_grad():
            target = self._maps(wanted)
        return (self._maps(image) - target).square()

    def _maps(self, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            image = normalize((image.float() + 1) / 2, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            return instance_norm(self.features(image))
