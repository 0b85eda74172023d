"""Losses of segmentation adaptation; all sums are float32."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""The label of a pixel that belongs to no class."""


def upsampled(logits: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool) -> Tensor:
    """Logits [B, K, h, w] at ``size`` (H, W), bilinear, float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=align_corners)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the valid pixels of ``label`` [B, H, W]; 0, not NaN, where there is none.

    On several ranks, all of which call it, the mean of their results is that over the valid pixels of all.
    """
    summed = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    valid = (label != IGNORE).sum()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(valid)
        return summed * dist.get_world_size() / valid.clamp(min=1)
    return summed / valid.clamp(min=1)
