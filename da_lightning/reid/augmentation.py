"""How training images of persons are augmented."""

import math
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from da_lightning.arguments import Share
from da_lightning.data.colours import Augment, random_colours
from da_lightning.data.views import Resize

Span = tuple[float, float]
Shares = tuple[Share, Share]
Crop = Literal["rect", "pad"]

# ImageNet's mean, written into an image that was already normalised by mean and deviation.
_ERASED = torch.tensor([0.485 + 0.229 * 0.485, 0.456 + 0.224 * 0.456, 0.406 + 0.225 * 0.406]).reshape(3, 1, 1)


class Augmentation:
    """Crop, mirror, colours, erasing from torch's global generator; arguments as of :class:`PersonDataModule`."""

    def __init__(
        self,
        resize: Resize,
        flip: bool,
        crop: Crop | None,
        erasing: float,
        erasing_area: Span,
        colour_jitter: float,
        augment: Augment | None = None,
    ) -> None:
        assert resize.size is not None
        self.resize, self.flip, self.crop = resize, flip, crop
        self.erasing, self.erasing_area = erasing, erasing_area
        self.padded_crop = v2.RandomCrop(resize.size, padding=round(resize.size[0] * 10 / 256))
        self.colours = random_colours(colour_jitter, augment)

    def __call__(self, image: Tensor) -> Tensor:
        """Augment ``image`` uint8 [3, h, w] to float32 [3, H, W] in [0, 1]."""
        image = self._rect_cropped(image) if self.crop == "rect" else self.resize(image)
        if self.crop == "pad":
            image = self.padded_crop(image)
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        image = self.colours(image).float() / 255
        if torch.rand(()) < self.erasing:
            box = random_box(image, self.erasing_area, (0.3, 3), tries=100)
            if box is not None:
                top, left, height, width = box
                image[:, top : top + height, left : left + width] = _ERASED
        return image

    def _rect_cropped(self, image: Tensor) -> Tensor:
        box = random_box(image, (0.64, 1), (2, 3), tries=10) or (0, 0, *image.shape[-2:])
        return TF.resized_crop(image, *box, self.resize.size, v2.InterpolationMode.BILINEAR, antialias=True)


def random_box(image: Tensor, areas: Span, ratios: Span, tries: int) -> tuple[int, int, int, int] | None:
    """A box inside ``image``: top, left, height, width; ``None`` if none of ``tries`` fits.

    Its share of the area and its height / width are uniform (torchvision draws the latter's logarithm).
    """
    height, width = image.shape[-2:]
    for _ in range(tries):
        draws = torch.rand(4).tolist()
        (area, ratio) = (low + draw * (high - low) for draw, (low, high) in zip(draws, (areas, ratios), strict=False))
        area *= height * width
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if high <= height and wide <= width:
            return int(draws[2] * (height - high + 1)), int(draws[3] * (width - wide + 1)), high, wide
    return None
