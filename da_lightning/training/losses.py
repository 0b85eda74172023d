"""Losses that more than one family uses; all sums are float32."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Gan = Literal["vanilla", "least_squares"]


def gan_loss(score: Tensor, label: float, gan: Gan) -> Tensor:
    """Distance of a discriminator's raw ``score``, of any shape, to ``label`` (0..1), mean over the map."""
    wanted = torch.full_like(score, label, dtype=torch.float32)
    loss = F.binary_cross_entropy_with_logits if gan == "vanilla" else F.mse_loss
    return loss(score.float(), wanted)
