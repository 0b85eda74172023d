"""AdaptSegNet: Learning to Adapt Structured Output Space for Semantic Segmentation (Tsai et al., CVPR 2018)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as L
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.segmentation.losses import upsampled
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.networks.base import Level
from da_lightning.segmentation.networks.discriminator import OutputDiscriminator
from da_lightning.training.callbacks import KeepSourceOnly
from da_lightning.training.losses import Gan, gan_loss
from da_lightning.training.module import frozen, tell_of_no_adaptation
from da_lightning.training.optimizers import optimizer_options
from da_lightning.training.players import Backward, Batch, Group, Player, Step, Term, Updates
from da_lightning.training.schedules import ScheduleOptions, decay, make_schedule

SOURCE, TARGET = 0.0, 1.0
"""What a discriminator calls the two domains, as in the official code."""


class AdaptSegNet(SegmentationModule):
    """Discriminators on the softmax maps make target predictions look like source predictions.

    The segmenter minimises ``L_seg + sum_levels weight * L_adv``, where ``L_adv`` asks each discriminator to take a
    target map for a source one (flipped label, not a reversed gradient). Each discriminator minimises half the sum
    of its losses on both domains, on maps made before the segmenter's step: all gradients belong to the same
    weights, as in the paper.

    Args:
        source_iters: Iterations on source labels alone before adaptation begins, for networks without pretrained
            weights.
        levels: 1 adapts the main output alone, 2 the auxiliary output as well.
        adversarial_weights: Of ``L_adv``, main level first.
        gan: ``vanilla`` (cross-entropy) or ``least_squares`` (on raw scores).
        discriminator_optimizer: See :func:`~da_lightning.training.optimizers.make_optimizer`.
        adaptation_lr_factor: Learning rates at the first adversarial iteration over those of the optimisers.
        horizon: Adversarial iterations until the polynomial decay reaches 0 (the official run stops earlier); the
            source phase has its own decay.
        discriminator_schedule: Of the discriminators; ``None`` is as ``schedule``.
        options: See :class:`~da_lightning.segmentation.module.SegmentationModule`.
    """

    def __init__(
        self,
        discriminator_optimizer: Mapping[str, Any],
        source_iters: NonNegativeInt = 0,
        levels: Literal[1, 2] = 2,
        adversarial_weights: tuple[float, float] = (0.001, 0.0002),
        gan: Gan = "vanilla",
        discriminator_width: PositiveInt = 64,
        adaptation_lr_factor: float = 1.0,
        horizon: PositiveInt | None = None,
        discriminator_schedule: ScheduleOptions = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.discriminator_optimizer, self.gan = optimizer_options(discriminator_optimizer), gan
        self.adversarial_weights = adversarial_weights[:levels]
        self.source_iters, self.adaptation_lr_factor = source_iters, adaptation_lr_factor
        tell_of_no_adaptation(source_iters, self.max_iters)
        self.horizon = horizon or max(1, self.max_iters - source_iters)
        self.use_schedule(self._two_phases)
        self.discriminator_schedule = make_schedule(discriminator_schedule, self.max_iters, self.schedule)
        self.discriminators = nn.ModuleList(
            OutputDiscriminator(len(self.classes), discriminator_width) for _ in self.adversarial_weights
        )

    def configure_callbacks(self) -> list[L.Callback]:
        kept = [KeepSourceOnly(self.source_iters)] if self.source_iters else []
        return [*kept, *super().configure_callbacks()]

    def players(self) -> dict[str, Player]:
        critics = {
            name: Player(
                [Group(list(d.parameters()))], self.discriminator_optimizer, schedule=self.discriminator_schedule
            )
            for name, d in zip(self._discriminator_names, self.discriminators, strict=True)
        }
        return {"segmenter": self.segmenter(), **critics}

    def _two_phases(self, iteration: int) -> float:
        if iteration < self.source_iters:
            return decay(iteration, self.source_iters)
        return self.adaptation_lr_factor * decay(iteration - self.source_iters, self.horizon)

    def updates(self, batch: Batch) -> Updates:
        source, target = batch["source"], batch["target"]
        source_levels = self.network(source["image"])
        self._check_levels(source_levels)
        if self.iteration < self.source_iters:
            yield Backward("segmenter", self.supervised(source_levels, source["label"]))
            yield Step("segmenter")
            return
        # Two forward passes: with live batch-norm statistics one joint pass would be another method.
        target_levels = self.network(target["image"])
        source_maps = self._maps(source_levels, source["image"])
        target_maps = self._maps(target_levels, target["image"])

        terms = self.supervised(source_levels, source["label"])
        with frozen(self.discriminators):
            for level, weight in enumerate(self.adversarial_weights):
                score = self.discriminators[level](target_maps[level])
                terms[f"adversarial_{level + 1}"] = Term(gan_loss(score, SOURCE, self.gan), weight)
        yield Backward("segmenter", terms)
        yield Step("segmenter")

        for level, name in enumerate(self._discriminator_names):
            discriminator = self.discriminators[level]
            terms = {
                "source": Term(gan_loss(discriminator(source_maps[level].detach()), SOURCE, self.gan), 0.5),
                "target": Term(gan_loss(discriminator(target_maps[level].detach()), TARGET, self.gan), 0.5),
            }
            yield Backward(name, terms)
            yield Step(name)

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        for image in images.values():
            levels = self.network(image)
            self._check_levels(levels)
            for discriminator, maps in zip(self.discriminators, self._maps(levels, image), strict=True):
                discriminator(maps)

    def _check_levels(self, levels: Sequence[Level]) -> None:
        if len(_whole(levels)) < len(self.adversarial_weights):
            raise UserError(
                "method.levels=2 adapts an auxiliary output, which this network has not: set method.levels=1, or "
                "method.network.multi_level=true."
            )

    @property
    def _discriminator_names(self) -> list[str]:
        return [f"discriminator_{level + 1}" for level in range(len(self.adversarial_weights))]

    def _maps(self, levels: Sequence[Level], image: Tensor) -> list[Tensor]:
        """Softmax of the logits, upsampled first: the discriminator would see too small a map."""
        size = image.shape[-2:]
        return [
            upsampled(level.logits, size, self.align_corners).softmax(1)
            for level in _whole(levels)[: len(self.adversarial_weights)]
        ]


def _whole(levels: Sequence[Level]) -> list[Level]:
    """Those that cover the image."""
    return [level for level in levels if level.region is None]
