"""Whole images by overlapping windows of the size that a network was trained on."""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from da_lightning.arguments import Size
from da_lightning.errors import UserError
from da_lightning.segmentation.losses import upsampled


@dataclass(frozen=True)
class Windows:
    """A grid of windows; those at the right and lower edge are moved in so that they end with the image.

    Args:
        size: (H, W) of a window.
        overlap: Rows and columns that neighbours share.
        batch: Windows that go through the network at once in eval mode. In train mode all of them do, for their
            batch-norm statistics belong together.
        align_corners: How the logits of a window are upsampled to its size.

    Raises:
        UserError: An overlap that is a whole window or more.
    """

    size: Size
    overlap: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)
    batch: PositiveInt = 4
    align_corners: bool = True

    def __post_init__(self) -> None:
        if any(shared >= side for shared, side in zip(self.overlap, self.size, strict=True)):
            raise UserError(
                f"Expected method.windows.overlap below method.windows.size={list(self.size)}, but found "
                f"{list(self.overlap)}: lower it, to half of the size, say."
            )

    def fit(self, image: Tensor) -> bool:
        """Whether ``image`` [B, 3, H, W] has room for a window."""
        return image.shape[-2] >= self.size[0] and image.shape[-1] >= self.size[1]

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each window of an image.

        Raises:
            UserError: The image is smaller than a window.
        """
        if height < self.size[0] or width < self.size[1]:
            raise UserError(
                f"Expected images of at least method.windows.size={list(self.size)}, but found {height}x{width}: give "
                "smaller windows, or method.windows=null to see images whole."
            )
        starts = [
            [min(start, side - own) for start in range(0, max(side - shared, 1), own - shared)]
            for side, own, shared in zip((height, width), self.size, self.overlap, strict=True)
        ]
        rows, columns = (list(dict.fromkeys(line)) for line in starts)
        return [(top, left) for top in rows for left in columns]


def slide(network: nn.Module, image: Tensor, windows: Windows) -> Tensor:
    """Mean of the main logits of all windows that cover a pixel: [B, K, H, W] at the size of ``image`` [B, 3, H, W].

    Args:
        network: A :class:`~da_lightning.segmentation.networks.base.SegmentationNetwork`.

    Raises:
        UserError: The image is smaller than a window.
    """
    (height, width), (rows, columns) = image.shape[-2:], windows.size
    places = windows.places(height, width)
    step = len(places) if network.training else windows.batch
    total: Tensor | None = None
    count = torch.zeros(1, 1, height, width, device=image.device)
    for first in range(0, len(places), step):
        some = places[first : first + step]
        seen = torch.cat([image[..., top : top + rows, left : left + columns] for top, left in some])
        logits = upsampled(network(seen)[0].logits, windows.size, windows.align_corners)
        for (top, left), part in zip(some, logits.unflatten(0, (len(some), -1)), strict=True):
            if total is None:
                total = part.new_zeros(*part.shape[:2], height, width)
            total[..., top : top + rows, left : left + columns] += part
            count[..., top : top + rows, left : left + columns] += 1
    assert total is not None  # there is a window
    return total / count
