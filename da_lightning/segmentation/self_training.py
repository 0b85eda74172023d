"""Self-training with pseudo labels: ST, CBST and CBST-SP (Zou et al., ECCV 2018), after any segmentation method.

A round labels the target set with the present weights, keeps the most confident portion, and trains on source labels
and pseudo labels together; the portion grows from round to round.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as L
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from da_lightning.arguments import Share
from da_lightning.errors import UserError
from da_lightning.segmentation.data import SegmentationDataModule
from da_lightning.segmentation.label_report import draw_labels, log_round, show_prior
from da_lightning.segmentation.labelling import Labelling, Policy, problem_of_labels
from da_lightning.segmentation.mining import Mining, mining_classes
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.segmentation.networks.base import Level
from da_lightning.segmentation.pseudo_labels import Thresholds
from da_lightning.segmentation.spatial_prior import spatial_prior as prior_of
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Batch, Extension, Step, Updates
from da_lightning.training.progress import tracked
from da_lightning.training.rehearsal import rehearse
from da_lightning.training.rounds import Rounds, align_epochs


class Growth(NamedTuple):
    """A share in the first round, its growth from round to round, and its bound."""

    first: float
    step: float
    bound: float

    def at(self, round_: int) -> float:
        """Its value in round 1, 2, ..."""
        return min(self.first + self.step * max(0, round_ - 1), self.bound)

    def check(self, key: str, bound_key: str) -> None:
        """Refuse what is no share, under the names of its options."""
        for name, value in ((key, self.first), (bound_key, self.bound)):
            if not 0 < value <= 1:
                raise UserError(f"{name}={value} is not a share: give a number above 0 and up to 1, e.g. 0.2.")
        if self.first > self.bound:
            raise UserError(f"{key}={self.first} is above {bound_key}={self.bound}: raise {bound_key}.")


class SelfTraining(Rounds):
    """Rounds of self-training that follow a segmentation method's own ``max_iters``.

    In a round the network trains on source labels and pseudo labels, and the method's other players rest. The training
    is ``max_iters + rounds * iters_per_round`` long. Labels are in ``pseudo_labels/round_<k>/*.png`` (class ids, 255 =
    none) under the run folder, overlays in ``pictures/``. The target's own labels are never opened.

    Args:
        rounds: Number of rounds.
        iters_per_round: Iterations between two labellings.
        round_lr_factor: Learning rate of the first round over ``optimizer.lr``; constant inside a round.
        round_lr_decay: Factor on it from round to round.
        policy: One threshold for each class (``class_balanced``, CBST) or one for all (``global``, ST).
        portion, portion_step, max_portion: Share of target pixels to label in the first round, its growth, its bound.
        spatial_prior: Weigh probabilities by where the source shows each class (CBST-SP).
        source_share, source_share_step, max_source_share: Share of source images used in a round; the sets are nested.
        mining_chance: Probability that a crop looks for a rare class (needs ``data.crop_size``).
        threshold_stride: Rank every n-th pixel of an image and class.
        flip_average: Average the probabilities of an image and its mirror image before labelling.
        separate_domains: Forward source and target images apart, each under its own batch-norm statistics; ``None`` is
            as ``method.target_statistics``.
    """

    PLACE = "callbacks.self_training"
    """What comes before the names of options in messages."""

    BEGIN = "method.max_iters"

    def __init__(
        self,
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
    ) -> None:
        super().__init__(iters_per_round, rounds=rounds)
        self.further = rounds * iters_per_round
        self.portions = Growth(portion, portion_step, max_portion)
        self.source_shares = Growth(source_share, source_share_step, max_source_share)
        for name, growth in (("portion", self.portions), ("source_share", self.source_shares)):
            growth.check(f"{self.PLACE}.{name}", f"{self.PLACE}.max_{name}")
        self.check_growth(rounds)
        self.round_lr_factor, self.round_lr_decay = round_lr_factor, round_lr_decay
        self.policy, self.threshold_stride = policy, threshold_stride
        self.mining_chance, self.separate_domains = mining_chance, separate_domains
        self._labelling = Labelling(policy, threshold_stride, flip_average)
        self._use_spatial_prior, self._prior = spatial_prior, cast(Tensor | None, None)

    @property
    def tau(self) -> list[float]:
        """The present round's probability thresholds, class by class."""
        return self.labels.get("tau", [])

    @property
    def counts(self) -> list[int]:
        """Pixels predicted as each class when the present round began."""
        return self.labels.get("counts", [])

    def check_growth(self, rounds: int) -> None:
        """Raise where a share falls to 0 within so many rounds."""
        for name, growth in (("portion", self.portions), ("source_share", self.source_shares)):
            if growth.at(rounds) <= 0:
                raise UserError(
                    f"{self.PLACE}.{name}_step={growth.step} makes a share of 0 or less of {self.PLACE}.{name}="
                    f"{growth.first} within {rounds} rounds: raise it."
                )

    # -- with a method -----------------------------------------------------------------------------------------------

    def join(self, module: AdaptationModule, data: L.LightningDataModule) -> None:
        module, data = check_self_training(module, data)
        if any(isinstance(callback, SelfTraining) for callback in cast(list, module.configure_callbacks())):
            raise UserError(
                f"{type(module).__name__} has rounds of its own: leave out callbacks.self_training, and set "
                "method.rounds and the like."
            )
        separate = module.target_statistics if self.separate_domains is None else self.separate_domains
        lengths = {self.BEGIN: module.max_iters, f"{self.PLACE}.iters_per_round": self.every}
        self.begin = module.max_iters
        module.extension = Extension(
            iterations=self.further,
            updates=partial(_updates, separate),
            factor=partial(round_factor, self.every, self.round_lr_factor, self.round_lr_decay),
            fit_epochs=partial(align_epochs, phases=lengths),
        )
        if data.trainer is None:  # before the run's record is made, which looks at epochs itself
            rehearse(module, partial(rehearse_labels, module, separate), data.training_shapes)
        else:
            module.fit_epochs(data)

    # -- a round -----------------------------------------------------------------------------------------------------

    def make(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> dict[str, Any]:
        module, data = cast(SegmentationModule, module), _data_of(trainer)
        self._portion, prior = self.portions.at(self.round), self._spatial_prior(trainer, module)
        self._found, self._selected = self._labelling.write(trainer, module, data, prior, self._portion, folder)
        return {"tau": self._found.tau.tolist(), "counts": self._found.counts.tolist()}

    def use(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> None:
        data = _data_of(trainer)
        data.target_view.pseudo_labels = folder
        priority, rare = mining_classes(torch.tensor(self.counts))
        mining = Mining(priority, rare, self.mining_chance) if self.mining_chance else None
        data.source_view.mining = data.target_view.mining = mining
        data.use_source_share(self.source_shares.at(self.round))

    def report(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> None:
        module, found = cast(SegmentationModule, module), cast(Thresholds, self._found)
        log_round(trainer, module, (self.round, cast(int, self.rounds)), self._portion, found, self._selected)
        draw_labels(trainer, module, _data_of(trainer).target_view, folder, self.round)

    def problem(self, trainer: L.Trainer, folder: Path) -> str | None:
        return problem_of_labels(_data_of(trainer).target_view, folder)

    def _spatial_prior(self, trainer: L.Trainer, module: SegmentationModule) -> Tensor | None:
        if self._use_spatial_prior and self._prior is None:
            data = _data_of(trainer)
            count = len(data.source_view)
            indices = tracked(trainer, range(count), "Spatial prior", count, draw=False)
            labels = (cast(Tensor, data.source_view.plain(i)[1]) for i in indices)
            self._prior = prior_of(labels, len(module.classes), data.target_view.size)
            if trainer.is_global_zero:
                show_prior(trainer, module, self._prior)
        return self._prior


def labelled_updates(module: SegmentationModule, batch: Batch, separate_domains: bool, player: str) -> Updates:
    """One cross-entropy over all labelled pixels of both domains, as if the two sets were one.

    Args:
        separate_domains: Forward each domain by itself.
        player: Who moves the network.
    """
    label = torch.cat([batch["source"]["label"], batch["target"]["pseudo_label"]])
    levels = _forward(module, [batch["source"]["image"], batch["target"]["image"]], separate_domains)
    yield Backward(player, module.supervised(levels, label))
    yield Step(player)


def rehearse_labels(module: SegmentationModule, separate_domains: bool, images: dict[str, Tensor]) -> None:
    """The forward passes of :func:`labelled_updates`."""
    _forward(module, [images["source"], images["target"]], separate_domains)


def round_factor(iters_per_round: int, first: float, decay: float, iteration: int) -> float:
    """Factor on the learning rates, ``iteration`` iterations after the first round began."""
    return first * decay ** (iteration // iters_per_round)


def check_self_training(
    module: AdaptationModule, data: L.LightningDataModule | None
) -> tuple[SegmentationModule, SegmentationDataModule]:
    """Module and data of a self-training.

    Raises:
        UserError: They are of another family, have no source, or make no joint batch.
    """
    if not isinstance(module, SegmentationModule):
        raise UserError(
            f"Self-training labels pixels, and {type(module).__name__} segments nothing: leave it out, or choose a "
            "segmentation method."
        )
    if not isinstance(data, SegmentationDataModule):
        raise UserError(
            "Self-training labels the target set, so it needs Trainer.fit(..., datamodule=SegmentationDataModule)."
        )
    if data.source is None:
        raise UserError(
            "Self-training joins source labels and pseudo labels, but found data.source=null: let data.source be a "
            "data set."
        )
    source, target = (view.augment.crop_size or tuple(view.size) for view in (data.source_view, data.target_view))
    if tuple(source) != tuple(target):
        raise UserError(
            "Self-training joins source and target images in one batch, but whole ones are "
            f"{source[0]}x{source[1]} and {target[0]}x{target[1]}: set data.crop_size, to "
            f"[{min(source[0], target[0])},{min(source[1], target[1])}] at most."
        )
    return module, data


def _updates(separate_domains: bool, module: SegmentationModule, batch: Batch) -> Updates:
    return labelled_updates(module, batch, separate_domains, module.player_of_network())


def _forward(module: SegmentationModule, images: list[Tensor], separate_domains: bool) -> Sequence[Level]:
    if separate_domains:
        # Each domain under its own batch-norm statistics, or the target's would suit neither training nor test.
        return [_joined(levels) for levels in zip(*map(module.network, images), strict=True)]
    return module.network(torch.cat(images))


def _joined(levels: Sequence[Level]) -> Level:
    first, *others = levels
    if any(level.region != first.region for level in others):
        raise UserError(
            "Source and target cannot pass apart through a network that draws a part of the image each time: set "
            "separate_domains=false."
        )
    return first._replace(logits=torch.cat([level.logits for level in levels]))


def _data_of(trainer: L.Trainer) -> SegmentationDataModule:
    return cast(SegmentationDataModule, cast(Any, trainer).datamodule)
