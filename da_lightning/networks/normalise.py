"""Images in [0, 1] to what a network was trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.training.exportable import Normalisation

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE = ((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)


class Normalise(nn.Module):
    """Subtracts a mean from RGB in [0, 1], and divides by a deviation.

    Args:
        space: ``imagenet``: torchvision's mean and deviation. ``caffe``: BGR in 0..255 minus the Caffe mean. Or mean
            and deviation of R, G, B.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, space: str | Sequence[Sequence[float]]) -> None:
        super().__init__()
        if isinstance(space, str) and space not in ("imagenet", "caffe"):
            raise UserError(f"Expected normalisation 'imagenet' or 'caffe', but found {space!r}; choose one of them.")
        self.bgr = space == "caffe"
        mean, deviation = _CAFFE if self.bgr else IMAGENET if isinstance(space, str) else space
        self.constants: Normalisation = {"mean": list(mean), "std": list(deviation)}
        order = -1 if self.bgr else 1
        # Constants, not weights: a state dict keeps the official names only.
        for name, values in (("mean", mean[::order]), ("deviation", deviation[::order])):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return ((image.flip(1) if self.bgr else image) - self.mean) / self.deviation
