"""Losses of segmentation adaptation; all sums are float32."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
"""The label of a pixel that belongs to no class."""


def upsampled(logits: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool) -> Tensor:
    """Logits [B, K, h, w] at ``size`` (H, W), bilinear, float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=align_corners)


def pixel_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the valid pixels of ``label`` [B, H, W]; 0, not NaN, where there is none."""
    summed = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return summed / (label != IGNORE).sum().clamp(min=1)
