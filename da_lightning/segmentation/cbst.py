"""CBST: Domain Adaptation for Semantic Segmentation via Class-Balanced Self-Training (Zou et al., ECCV 2018)."""

import math
from functools import partial
from typing import Any

import lightning.pytorch as L
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from da_lightning.arguments import Share
from da_lightning.segmentation.labelling import Policy
from da_lightning.segmentation.self_training import (
    SelfTraining,
    check_self_training,
    labelled_updates,
    rehearse_labels,
    round_factor,
)
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.training.callbacks import KeepSourceOnly
from da_lightning.training.module import AdaptationModule, tell_of_no_adaptation
from da_lightning.training.players import Batch, Updates
from da_lightning.training.rounds import align_epochs
from da_lightning.training.schedules import decay


class CBST(SourceOnly):
    """Source-only training for ``source_iters``, then rounds of self-training; also ST and CBST-SP.

    With ``source_iters=0`` and ``init_from`` the rounds follow any earlier training. Inside one training they follow
    any segmentation method as :class:`~da_lightning.segmentation.self_training.SelfTraining`, which explains the
    options that are not here.

    Args:
        source_iters: Iterations on source labels alone before the first round.
        rounds: Number of rounds; 0 leaves source-only training (with ``target_statistics`` it is AdaBN).
        separate_domains: Normalise each domain by its own batch-norm statistics in a round; ``None`` is as
            ``target_statistics``.
        max_iters: End earlier than the last round.
        options: See :class:`~da_lightning.segmentation.source_only.SourceOnly`.
    """

    def __init__(
        self,
        source_iters: NonNegativeInt,
        rounds: NonNegativeInt,
        iters_per_round: PositiveInt,
        round_lr_factor: float = 1.0,
        round_lr_decay: float = 0.5**0.5,
        policy: Policy = "class_balanced",
        portion: float = 0.2,
        portion_step: float = 0.05,
        max_portion: float = 0.5,
        spatial_prior: bool = False,
        source_share: float = 1.0,
        source_share_step: float = 0.0,
        max_source_share: float = 1.0,
        mining_chance: Share = 0.8,
        threshold_stride: PositiveInt = 1,
        flip_average: bool = True,
        separate_domains: bool | None = None,
        max_iters: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        planned = source_iters + rounds * iters_per_round
        super().__init__(max_iters=min(planned, max_iters or planned), **options)
        self.save_hyperparameters()
        if rounds:
            tell_of_no_adaptation(source_iters, self.max_iters)
        self.source_iters, self.iters_per_round = source_iters, iters_per_round
        self.separate_domains = self.target_statistics if separate_domains is None else separate_domains
        self._round_factor = partial(round_factor, iters_per_round, round_lr_factor, round_lr_decay)
        self.use_schedule(self._by_round)
        begun = min(rounds, math.ceil(max(0, self.max_iters - source_iters) / iters_per_round))
        self.make_rounds = partial(
            RoundsOfCBST,
            source_iters,
            begun,
            rounds=rounds,
            iters_per_round=iters_per_round,
            policy=policy,
            portion=portion,
            portion_step=portion_step,
            max_portion=max_portion,
            spatial_prior=spatial_prior,
            source_share=source_share,
            source_share_step=source_share_step,
            max_source_share=max_source_share,
            mining_chance=mining_chance,
            threshold_stride=threshold_stride,
            flip_average=flip_average,
        )
        self.make_rounds()  # says what is wrong with the options

    def configure_callbacks(self) -> list[L.Callback]:
        return [KeepSourceOnly(self.source_iters), self.make_rounds(), *super().configure_callbacks()]

    def fit_epochs(self, data: Any) -> None:
        align_epochs(data, {"method.source_iters": self.source_iters, "method.iters_per_round": self.iters_per_round})

    def _by_round(self, iteration: int) -> float:
        if iteration < self.source_iters:
            return decay(iteration, self.source_iters)
        return self._round_factor(iteration - self.source_iters)

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        if self.separate_domains or not self.source_iters:
            rehearse_labels(self, self.separate_domains, images)
        else:
            super().rehearsal(images)

    def updates(self, batch: Batch) -> Updates:
        if "pseudo_label" in batch["target"]:
            yield from labelled_updates(self, batch, self.separate_domains, "segmenter")
        else:
            yield from super().updates(batch)


class RoundsOfCBST(SelfTraining):
    """Rounds inside a method's own ``max_iters``, whose options are the method's.

    Args:
        begin: Iterations before the first round.
        begun: Rounds that begin before the training ends.
        options: See :class:`~da_lightning.segmentation.self_training.SelfTraining`.
    """

    PLACE = "method"
    BEGIN = "method.source_iters"

    def __init__(self, begin: int, begun: int, **options: Any) -> None:
        self._begun = begun
        super().__init__(**options)
        self.begin, self.further = begin, 0

    def check_growth(self, rounds: int) -> None:
        super().check_growth(self._begun)

    def join(self, module: AdaptationModule, data: L.LightningDataModule) -> None:
        check_self_training(module, data)
        module.fit_epochs(data)
