"""Losses of the translators; all sums are float32."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.training.losses import Gan, gan_loss
from da_lightning.training.module import frozen


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, gan: Gan) -> Tensor:
    """Real scored 1 and fake 0, summed over a discriminator's scales; ``fake`` gets no gradient.

    Both go through in one call, which norms over single samples do not notice.
    """
    return judged_loss(discriminator(torch.cat((real, fake.detach()))), gan)


def judged_loss(scores: Sequence[Tensor], gan: Gan) -> Tensor:
    """The same from the scores, a tensor a scale: of real samples first, then of as many fakes."""
    halves = [score.chunk(2) for score in scores]
    return torch.stack([gan_loss(r, 1.0, gan) + gan_loss(f, 0.0, gan) for r, f in halves]).sum()


def generator_loss(discriminator: nn.Module, fake: Tensor, gan: Gan) -> Tensor:
    """Fake scored 1, summed over a discriminator's scales; the discriminator gets no gradient."""
    with frozen(discriminator):
        return torch.stack([gan_loss(score, 1.0, gan) for score in discriminator(fake)]).sum()


def l1(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference; both sides get a gradient."""
    return F.l1_loss(one.float(), other.float())


def mean_square(code: Tensor) -> Tensor:
    """Mean of squares: up to scale the KL divergence of N(code, 1) from N(0, 1)."""
    return code.float().square().mean()
