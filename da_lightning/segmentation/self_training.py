"""Self-training with pseudo labels: ST, CBST and CBST-SP (Zou et al., ECCV 2018).

A round labels the target set with the present weights, keeps the most confident portion, and trains on source labels
and pseudo labels together; the portion grows from round to round.
"""

import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torchvision.utils import make_grid

from da_lightning.arguments import Share
from da_lightning.data.images import open_image
from da_lightning.errors import CheckpointError, DataError, UserError
from da_lightning.files import copy_file, damaged_images, dispensable, read_png, show_picture, write_png
from da_lightning.segmentation.data import SegmentationDataModule
from da_lightning.segmentation.losses import upsampled
from da_lightning.segmentation.mining import Mining, mining_classes
from da_lightning.segmentation.pseudo_labels import Thresholds, class_counts, find_thresholds, realised_shares, select
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.segmentation.spatial_prior import prior_pictures, save_prior, spatial_prior
from da_lightning.training.callbacks import KeepSourceOnly, log_media
from da_lightning.training.ema import averaged_weights
from da_lightning.training.media import Overlay
from da_lightning.training.module import tell_of_no_adaptation
from da_lightning.training.players import Backward, Batch, Step, Updates
from da_lightning.training.progress import tracked
from da_lightning.training.schedules import decay
from da_lightning.training.strategy import failing_together

log = logging.getLogger(__name__)

KEPT_BYTES = 4 * 2**30
"""Logits at the network's stride are kept up to this size while labels are made; probability maps never are."""

Policy = Literal["class_balanced", "global"]


class SelfTrainedSegmenter(SourceOnly):
    """Source-only training for ``source_iters``, then rounds of self-training.

    With ``source_iters=0`` and ``init_from`` the rounds follow any earlier training, AdaptSegNet's for one.

    Args:
        source_iters: Iterations on source labels alone before the first round.
        rounds: Number of rounds; 0 leaves source-only training (with ``target_statistics`` it is AdaBN).
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
        target_statistics: Normalise each domain by its own batch-norm statistics, and label and test under the target's
            (AdaBN, Li et al., 2016).
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
        target_statistics: bool = False,
        max_iters: PositiveInt | None = None,
        **options: Any,
    ) -> None:
        planned = source_iters + rounds * iters_per_round
        super().__init__(max_iters=min(planned, max_iters or planned), **options)
        self.save_hyperparameters()
        if target_statistics and getattr(self.network, "bn_stats", None) == "frozen":
            raise UserError(
                "method.target_statistics=true would write the target's statistics over those of a network whose batch "
                "norm is frozen: set it to false, or method.network.bn_stats=batch."
            )
        if rounds:
            tell_of_no_adaptation(source_iters, self.max_iters)
        self.source_iters, self.iters_per_round = source_iters, iters_per_round
        self.round_lr_factor, self.round_lr_decay = round_lr_factor, round_lr_decay
        self.use_schedule(self._by_round)
        self.self_training = SelfTraining(
            rounds=rounds,
            policy=policy,
            portions=(portion, portion_step, max_portion),
            source_shares=(source_share, source_share_step, max_source_share),
            use_spatial_prior=spatial_prior,
            mining_chance=mining_chance,
            threshold_stride=threshold_stride,
            flip_average=flip_average,
            target_statistics=target_statistics,
        )
        begun = min(rounds, math.ceil(max(0, self.max_iters - source_iters) / iters_per_round))
        portions, source_shares = self.self_training.portions, self.self_training.source_shares
        for name, schedule in (("portion", portions), ("source_share", source_shares)):
            if _grown(schedule, begun) <= 0:
                raise UserError(
                    f"method.{name}_step={schedule[1]} makes a share of 0 or less of method.{name}={schedule[0]} "
                    f"within {begun} rounds: raise it."
                )

    def configure_callbacks(self) -> list[L.Callback]:
        return [KeepSourceOnly(self.source_iters), self.self_training]

    def fit_epochs(self, data: Any) -> None:
        self.self_training.align_epochs(data, self)

    def _by_round(self, iteration: int) -> float:
        if iteration < self.source_iters:
            return decay(iteration, self.source_iters)
        past_rounds = (iteration - self.source_iters) // self.iters_per_round
        return self.round_lr_factor * self.round_lr_decay**past_rounds

    @contextmanager
    def as_tested(self) -> Iterator[None]:
        if not self.self_training.target_statistics:
            yield
            return
        buffers = list(self.network.buffers())
        kept = [buffer.clone() for buffer in buffers]
        self.self_training.estimate_statistics(self.trainer, self)
        try:
            yield
        finally:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        if self.self_training.target_statistics:
            batches = list(images.values())
        else:
            batches = [images["source"] if self.source_iters else torch.cat([images["source"], images["target"]])]
        for image in batches:
            self.network(image)

    def updates(self, batch: Batch) -> Updates:
        if "pseudo_label" not in batch["target"]:
            yield from super().updates(batch)
            return
        # One cross-entropy over all valid pixels of both domains, as if the two sets were one.
        label = torch.cat([batch["source"]["label"], batch["target"]["pseudo_label"]])
        images = [batch["source"]["image"], batch["target"]["image"]]
        if self.self_training.target_statistics:
            # Each domain under its own batch-norm statistics, or the target's would suit neither training nor test.
            levels = [torch.cat(domains) for domains in zip(*map(self.network, images), strict=True)]
        else:
            levels = self.network(torch.cat(images))
        yield Backward("segmenter", self.supervised(levels, label))
        yield Step("segmenter")


class SelfTraining(L.Callback):
    """Labels the target set at the start of each round and hands the labels to the data module.

    Labels are written to ``pseudo_labels/round_<k>/*.png`` (class ids, 255 = none) under the run folder, with
    overlays in ``pictures/``. The target's own labels are never opened.

    Args:
        rounds: Number of rounds.
        policy: See :class:`SelfTrainedSegmenter`, as for all others.
        portions, source_shares: First value, growth per round, bound.
    """

    def __init__(
        self,
        rounds: int,
        policy: Policy,
        portions: tuple[float, float, float],
        source_shares: tuple[float, float, float],
        use_spatial_prior: bool,
        mining_chance: float,
        threshold_stride: int,
        flip_average: bool,
        target_statistics: bool,
    ) -> None:
        for name, (first, _, bound) in (("portion", portions), ("source_share", source_shares)):
            for key, value in ((name, first), (f"max_{name}", bound)):
                if not 0 < value <= 1:
                    raise UserError(
                        f"method.{key}={value} is not a share: give a number above 0 and up to 1, e.g. 0.2."
                    )
            if first > bound:
                raise UserError(
                    f"method.{name}={first} is above method.max_{name}={bound}, which would cut it: raise that, too."
                )
        self.rounds, self.policy, self.portions, self.source_shares = rounds, policy, portions, source_shares
        self.use_spatial_prior, self.mining_chance = use_spatial_prior, mining_chance
        self.threshold_stride, self.flip_average = threshold_stride, flip_average
        self.target_statistics = target_statistics
        self.round = 0
        self.tau: list[float] = []
        self.counts: list[int] = []
        self.folder: str = ""
        self.is_fresh = False  # whether nothing has been trained on the labels
        self._prior: Tensor | None = None

    # -- state: what a resumed run needs to go on inside a round -------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "tau": self.tau,
            "counts": self.counts,
            "folder": self.folder,
            "is_fresh": self.is_fresh,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.round, self.tau = state_dict["round"], state_dict["tau"]
        self.counts, self.folder = state_dict["counts"], state_dict["folder"]
        self.is_fresh = state_dict.get("is_fresh", False)
        if not isinstance(self.round, int):  # it becomes part of a path
            raise CheckpointError(f"The checkpoint's round of self-training is {self.round!r}: give another file.")

    # -- when ----------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            data = _datamodule(trainer)
            source, target = (
                view.augment.crop_size or tuple(view.size) for view in (data.source_view, data.target_view)
            )
            if tuple(source) != tuple(target):
                raise UserError(
                    "Self-training joins source and target images in one batch, but whole ones are "
                    f"{source[0]}x{source[1]} and {target[0]}x{target[1]}: set data.crop_size, to "
                    f"[{min(source[0], target[0])},{min(source[1], target[1])}] at most."
                )
            self.align_epochs(data, cast(SelfTrainedSegmenter, pl_module))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before the loader's workers copy the data set: they never see labels that come later.
        module = cast(SelfTrainedSegmenter, pl_module)
        if self.round:
            self._use_labels(trainer, self._labels_of_resumed_round(trainer, module))
        elif module.source_iters == 0:
            self._begin_round(trainer, module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.is_fresh = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(SelfTrainedSegmenter, pl_module)
        done = module.iterations_done
        if done >= module.max_iters:
            if self.target_statistics:
                with averaged_weights(trainer, module):
                    self.estimate_statistics(trainer, module)
        elif self.round < self.rounds and done >= module.source_iters + self.round * module.iters_per_round:
            self._begin_round(trainer, module)

    def align_epochs(self, data: SegmentationDataModule, module: SelfTrainedSegmenter) -> None:
        """Rounds begin at epochs' ends, so an epoch must divide both phases."""
        phases = [n for n in (module.source_iters, module.iters_per_round) if n]
        longest = math.gcd(*phases)
        if data.iterations_per_epoch is None:
            data.iterations_per_epoch = longest
            if 10 * longest < min(phases):
                log.warning(
                    "An epoch is %d iterations, all that divides method.source_iters=%d and method.iters_per_round=%d: "
                    "choose lengths with a larger common divisor.",
                    longest,
                    module.source_iters,
                    module.iters_per_round,
                )
        elif longest % data.iterations_per_epoch:
            raise UserError(
                f"data.iterations_per_epoch={data.iterations_per_epoch} must divide method.source_iters="
                f"{module.source_iters} and method.iters_per_round={module.iters_per_round}, since rounds begin where "
                f"epochs end: use {longest}."
            )

    # -- a round -------------------------------------------------------------------------------------------------------

    def _begin_round(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> None:
        self.round += 1
        self._use_labels(trainer, self._make_labels(trainer, module))
        self.is_fresh = True
        for optimizer in trainer.optimizers:
            optimizer.state.clear()  # each round starts afresh, as in both official codes

    def _make_labels(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> Path:
        folder = Path(trainer.default_root_dir) / "pseudo_labels" / f"round_{self.round}"
        with averaged_weights(trainer, module):
            if self.target_statistics:
                self.estimate_statistics(trainer, module)
            self._label_target(trainer, module, _grown(self.portions, self.round), folder)
        return folder

    def _use_labels(self, trainer: L.Trainer, folder: Path) -> None:
        self.folder = str(folder)
        data = _datamodule(trainer)
        data.target_view.pseudo_labels = folder
        priority, rare = mining_classes(torch.tensor(self.counts))
        mining = Mining(priority, rare, self.mining_chance) if self.mining_chance else None
        data.source_view.mining = data.target_view.mining = mining
        data.source_share = _grown(self.source_shares, self.round)

    def _labels_of_resumed_round(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> Path:
        """The round's labels, brought into this run's folder if the checkpoint comes from another.

        At the very start of a round the weights are those that make the labels, and make what is lost of them again.

        Raises:
            CheckpointError: Some are missing or damaged, and the training is further on.
        """
        here = Path(trainer.default_root_dir).resolve() / "pseudo_labels" / f"round_{self.round}"
        there = Path(trainer.ckpt_path or "").resolve().parent.parent / "pseudo_labels" / here.name
        # No other folder is looked at that the checkpoint names: a stranger's names any.
        problem = self._problem_of_labels(trainer, there) if trainer.is_global_zero else None
        problem = trainer.strategy.broadcast(problem)
        if problem and self.is_fresh:
            log.warning("%s. They are made again: the checkpoint is from the start of the round.", problem)
            return self._make_labels(trainer, module)
        if problem:
            raise CheckpointError(
                f"The checkpoint is from inside round {self.round}. {problem}: put them back, or begin a new run with "
                "method.init_from=<the checkpoint>."
            )
        with failing_together(trainer.strategy):
            if trainer.is_global_zero and there != here:
                partial = here.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(there, partial, copy_function=copy_file)
                shutil.rmtree(here, ignore_errors=True)
                partial.rename(here)
        return here

    def _problem_of_labels(self, trainer: L.Trainer, folder: Path) -> str | None:
        """What is wrong with the labels of the target in ``folder``; ``None``: nothing."""
        view = _datamodule(trainer).target_view
        files = [view.pseudo_label_file(index, folder) for index in range(len(view))]
        if not folder.is_dir():
            return f"Its pseudo labels were in {folder} and are gone"
        if missing := [file for file in files if not file.is_file()]:
            return (
                f"{len(missing)} of its {len(files)} pseudo labels are not in {folder}, the first is "
                f"{missing[0].relative_to(folder)}"
            )
        if damaged := damaged_images(files):
            return (
                f"{len(damaged)} of its {len(files)} pseudo labels in {folder} are damaged, the first is "
                f"{damaged[0].relative_to(folder)}"
            )
        height, width = view.size
        for file in files:
            try:
                with open_image(file) as image:
                    found, mode = image.size, image.mode
            except DataError as error:
                return str(error)
            if found != (width, height) or mode != "L":
                return (
                    f"{file} is {found[0]}x{found[1]} of mode {mode}, where a pseudo label of this run is "
                    f"{width}x{height} of mode L"
                )
        return None

    def estimate_statistics(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> None:
        """Give all batch norms the statistics of the target, the same on all ranks."""
        batches = self._target_batches(trainer, "Statistics of the target")
        update_bn((batch["image"] for batch in batches), module.network)
        # Each rank saw its own share; all must label and test under the same statistics.
        for statistic in (buffer for buffer in module.network.buffers() if buffer.is_floating_point()):
            statistic.copy_(cast(Tensor, trainer.strategy.reduce(statistic, reduce_op="mean")))

    def _target_batches(self, trainer: L.Trainer, what: str) -> Iterator[dict[str, Tensor]]:
        data = _datamodule(trainer)
        loader = data.ordered_loader(data.target_view.unaugmented())
        for batch in tracked(trainer, loader, what, len(loader), draw=False):
            yield trainer.strategy.batch_to_device(batch)

    @torch.no_grad()
    def _label_target(self, trainer: L.Trainer, module: SelfTrainedSegmenter, portion: float, folder: Path) -> None:
        was_training = module.training
        module.eval()
        data, prior = _datamodule(trainer), self._spatial_prior(trainer, module)
        logits = _remembered(lambda: self._logits(trainer, module))
        batches = len(data.ordered_loader(data.target_view.unaugmented()))

        def maps() -> Iterator[Tensor]:
            seen = tracked(trainer, logits(), "Pseudo labels", batches, draw=False)
            return (self._probabilities(module, views, data.target_view.size, prior) for _, views in seen)

        def reduce(counts: Tensor) -> Tensor:
            return trainer.strategy.reduce(counts.to(module.device), reduce_op="sum").cpu()

        num_classes = len(module.classes)
        found = find_thresholds(maps, num_classes, portion, self.policy, self.threshold_stride, reduce)
        self.tau, self.counts = found.tau.tolist(), found.counts.tolist()
        partial = folder.with_suffix(".partial")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        trainer.strategy.barrier()
        selected = torch.zeros(num_classes, dtype=torch.int64)
        try:
            with failing_together(trainer.strategy):
                for (indices, _), probabilities in zip(logits(), maps(), strict=True):
                    labels = select(probabilities, found.tau).cpu()
                    selected += class_counts(labels, num_classes)
                    for index, label in zip(indices.tolist(), labels, strict=True):
                        write_png(label[None].to(torch.uint8), data.target_view.pseudo_label_file(index, partial))
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)  # whatever the reason, its space may be needed
            raise
        selected = reduce(selected)
        with failing_together(trainer.strategy):
            if trainer.is_global_zero:
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
        if trainer.is_global_zero:
            self._report(trainer, module, portion, found, selected)
            self._draw_overlays(trainer, module, folder)
        trainer.strategy.barrier()
        module.train(was_training)

    def _logits(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Indices and main-level logits of target images and, if wanted, of their mirror images (mirrored back)."""
        for batch in self._target_batches(trainer, "Predicting the target"):
            with trainer.precision_plugin.forward_context():
                network = module.tested("network")
                views = [network(batch["image"])[0]]
                if self.flip_average:
                    views.append(network(batch["image"].flip(-1))[0].flip(-1))
            yield batch["index"].cpu(), [view.float().cpu() for view in views]

    def _probabilities(
        self, module: SelfTrainedSegmenter, views: list[Tensor], size: tuple[int, int], prior: Tensor | None
    ) -> Tensor:
        """Mean softmax of the views, float32 whatever the precision, times the prior."""
        views = [upsampled(view.to(module.device), size, module.align_corners).softmax(1) for view in views]
        mean = torch.stack(views).mean(0)
        return mean if prior is None else mean * prior.to(mean.device)

    def _spatial_prior(self, trainer: L.Trainer, module: SelfTrainedSegmenter) -> Tensor | None:
        if not self.use_spatial_prior or self._prior is not None:
            return self._prior
        data, root = _datamodule(trainer), Path(trainer.default_root_dir)
        count = len(data.source_view)
        indices = tracked(trainer, range(count), "Spatial prior", count, draw=False)
        labels = (cast(Tensor, data.source_view.plain(i)[1]) for i in indices)
        self._prior = spatial_prior(labels, len(module.classes), data.target_view.size)
        if trainer.is_global_zero:  # for those who want to look at it: the training has it in memory
            with dispensable("The spatial prior"):
                save_prior(self._prior, list(module.classes), root / "spatial_prior.pt")
                for name, picture in prior_pictures(self._prior, list(module.classes)).items():
                    if not show_picture(picture, root / "pictures" / "spatial_prior" / f"{name}.png"):
                        break
        return self._prior

    def _report(
        self, trainer: L.Trainer, module: SelfTrainedSegmenter, portion: float, found: Thresholds, selected: Tensor
    ) -> None:
        shares = realised_shares(selected, found.counts).tolist()
        numbers = {"round": float(self.round), "pseudo_labels/portion": portion}
        numbers["pseudo_labels/share"] = (selected.sum() / found.counts.sum()).item()
        for name, share, tau in zip(module.classes, shares, self.tau, strict=True):
            numbers[f"pseudo_labels/share/{name}"], numbers[f"pseudo_labels/tau/{name}"] = share, tau
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=module.iteration)
        log.info(
            "Round %d of %d: portion %.2f asked, %.3f of all target pixels labelled (%s).",
            self.round,
            self.rounds,
            portion,
            numbers["pseudo_labels/share"],
            ", ".join(f"{name} {share:.2f}" for name, share in zip(module.classes, shares, strict=True)),
        )

    def _draw_overlays(self, trainer: L.Trainer, module: SelfTrainedSegmenter, folder: Path, count: int = 4) -> None:
        """Target images and, below, their pseudo labels; what carries none stays black."""
        view = _datamodule(trainer).target_view
        count = min(count, len(view))
        indices = [i * len(view) // count for i in range(count)]
        images = [view.plain(i)[0] for i in indices]
        labels = [read_png(view.pseudo_label_file(i, folder))[0] for i in indices]
        log_media(
            trainer,
            "pseudo_labels",
            [Overlay(i, {"pseudo_label": ids}, list(module.classes)) for i, ids in zip(images, labels, strict=True)],
        )
        overlays = [(0.4 * image + 0.6 * module.coloured(label)) for image, label in zip(images, labels, strict=True)]
        grid = make_grid(torch.stack([*(image.float() for image in images), *overlays]) / 255, nrow=count)
        file = Path(trainer.default_root_dir) / "pictures" / f"pseudo_labels_round_{self.round}.png"
        show_picture(grid, file)


def _datamodule(trainer: L.Trainer) -> SegmentationDataModule:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, SegmentationDataModule):
        raise UserError(
            "Self-training labels the target set, so it needs Trainer.fit(..., datamodule=SegmentationDataModule)."
        )
    return data


def _remembered(passes: Callable[[], Iterator[tuple[Tensor, list[Tensor]]]]) -> Callable[[], Iterable]:
    """The same passes; what the first one saw is kept if it fits, or else computed anew each time."""
    kept, size = [], 0
    for item in passes():
        size += sum(view.nbytes for view in item[1])
        if size > KEPT_BYTES:
            return passes
        kept.append(item)
    return lambda: kept


def _grown(schedule: tuple[float, float, float], round_: int) -> float:
    """Value in round 1, 2, ...: first, first + growth, ..., bound."""
    first, growth, bound = schedule
    return min(first + growth * max(0, round_ - 1), bound)
