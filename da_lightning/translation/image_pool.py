"""History of generated images (Shrivastava et al., CVPR 2017)."""

import torch
from torch import Tensor


class ImagePool:
    """Shows a discriminator old fakes among the new ones, so that generators cannot go back to an old trick.

    Not a module: buffers of a module are overwritten with the first rank's, and each rank keeps its own history.

    Args:
        capacity: Images kept; 0 hands every image on as it is.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.images: list[Tensor] = []

    def swap(self, images: Tensor) -> Tensor:
        """``images`` [B, C, H, W], where each was swapped for a random one of the pool with probability 1/2.

        While the pool fills, all are handed on and kept.
        """
        if self.capacity == 0:
            return images
        return torch.stack([self._swapped(image) for image in images.detach()])

    def _swapped(self, image: Tensor) -> Tensor:
        if len(self.images) < self.capacity:
            self.images.append(image.clone())
            return image
        if torch.rand(()) < 0.5:
            return image
        place = int(torch.randint(self.capacity, ()))
        old, self.images[place] = self.images[place], image.clone()
        return old
