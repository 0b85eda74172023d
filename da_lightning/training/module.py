"""The training step that all methods share: named players, each with networks, terms, an optimiser and a schedule."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from da_lightning.arguments import Seed
from da_lightning.errors import NotFiniteError, UserError
from da_lightning.private.lightning import batch_number, batches_done, trainer_of
from da_lightning.seeds import mixed_seed
from da_lightning.training.checkpoints import without_origins
from da_lightning.training.ema import averaged_weights
from da_lightning.training.norms import share_statistics
from da_lightning.training.optimizers import make_optimizer
from da_lightning.training.players import Batch, Extension, Player, Step, Term, Updates
from da_lightning.training.precision import CONVERTED, cast_inputs
from da_lightning.training.ranks import (
    agreed,
    average_gradients,
    check_whole_parameters,
    without_ddp_reduction,
)
from da_lightning.training.rehearsal import Shapes, rehearse, size_problem
from da_lightning.training.schedules import Factor, ScheduleOptions, constant, make_schedule, scheduled
from da_lightning.training.teacher import Following, Teacher, recorded_teachers

log = logging.getLogger(__name__)


class AdaptationModule(L.LightningModule):
    """Base of all methods. A subclass says who plays (:meth:`players`) and what they minimise (:meth:`updates`).

    Optimiser stepping, precision, clipping, accumulation, schedules and the iteration count live here, once. Each
    step is reseeded from (seed, iteration, rank), so that a resumed run draws what the uninterrupted one drew.

    Args:
        max_iters: Length of the training in iterations (batches, whatever the number of players).
        accumulate: Batches whose gradients make one step.
        seed: Of noise drawn in the step (dropout, codes); order and augmentation have the data module's.
        schedule: Of the learning rates, see :func:`~da_lightning.training.schedules.make_schedule`; ``None`` is the
            method's own.
    """

    objective: str | None = None
    """The test score that stands for all."""

    needs_source = True
    """Whether it reads the source; others train on a target alone where ``data.source`` is null."""

    extension: Extension | None = None
    """What follows ``max_iters``."""

    def __init__(
        self, max_iters: PositiveInt, accumulate: PositiveInt = 1, seed: Seed = 0, schedule: ScheduleOptions = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.max_iters, self.accumulate, self.seed = max_iters, accumulate, seed
        self._schedule_options = schedule
        self.use_schedule(constant())

    def use_schedule(self, own: Factor) -> None:
        """Set ``schedule``: what the option of that name says, or else the method's ``own``."""
        self.schedule = make_schedule(self._schedule_options, self.max_iters, own)

    # -- what a method says ------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        """The players by name, in any order."""
        raise NotImplementedError

    def updates(self, batch: Batch) -> Updates:
        """Yield ``Backward(player, terms)``, as often as it takes, and ``Step(player)`` when it is time.

        Each is carried out before the next one is asked for. A backward pass frees its graph, so that terms computed
        one after another need the memory of one. Every player that has gradients steps before the end.

        On several devices all ranks yield the same sequence. Gradients become means over ranks at a ``Step``; a
        parameter may have one on some ranks, or on none.
        """
        raise NotImplementedError

    def teachers(self) -> dict[str, Teacher]:
        """Its teachers by the name of the network that each averages, whose player's steps it then follows."""
        return {}

    def tested(self, name: str) -> nn.Module:
        """The network ``name``, or its teacher's: what predicts, is exported, labels and gets scores."""
        teacher = self.teachers().get(name)
        return teacher.network if teacher and teacher.test_with == "teacher" else self.get_submodule(name)

    def check_length(self, epoch: int) -> None:
        """Look at the training's length in epochs of ``epoch`` iterations; before its stages, too.

        Raises:
            UserError: The method cannot train for so long, or so short.
        """

    def fit_epochs(self, data: Any) -> None:
        """Give ``data`` the length of epochs that the method needs, where it needs one; before training.

        Raises:
            UserError: Its own length does not fit.
        """
        if self.extension is not None:
            self.extension.fit_epochs(data)

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        """Pass ``images`` [B, C, H, W] of each domain through the networks as training does; only shapes matter."""

    def check_batch(self, shapes: Shapes) -> None:
        """Look at the shapes [B, C, H, W] of each domain's images; before the stages of a method, too.

        Raises:
            UserError: The networks cannot train on them.
        """
        if shapes:
            rehearse(self, self.rehearsal, shapes)

    # -- what Lightning asks -----------------------------------------------------------------------------------------

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **options: Any) -> Any:
        """As Lightning's, of tensors and plain values alone, whatever the environment says."""
        return super().load_from_checkpoint(checkpoint_path, *arguments, **{**options, "weights_only": True})

    @property
    def total_iters(self) -> int:
        """Iterations of the whole training: the method's own and those of what follows."""
        return self.max_iters + (self.extension.iterations if self.extension is not None else 0)

    @property
    def iteration(self) -> int:
        """The number, from 0, of the batch in progress or else the last one, over all epochs and resumes."""
        trainer = trainer_of(self)
        return batch_number(trainer) if trainer is not None else 0

    @property
    def iterations_done(self) -> int:
        """Batches whose step has been done, over all epochs and resumes; in any hook, and before and after training."""
        trainer = trainer_of(self)
        return batches_done(trainer) if trainer is not None else 0

    def configure_model(self) -> None:
        if trainer_of(self) is not None and self.trainer.precision in CONVERTED:
            cast_inputs(self)

    def configure_optimizers(self) -> Any:
        if trainer_of(self) is not None:
            check_whole_parameters(self.trainer.strategy)
        self._players = self.players()
        self._following = Following(self, self.teachers(), self._players)
        is_scaled = getattr(getattr(trainer_of(self), "precision_plugin", None), "scaler", None) is not None
        if is_scaled and self.accumulate > 1 and len(self._players) > 1:
            raise UserError(
                f"trainer.precision=16-mixed scales losses anew after each player's step, and method.accumulate="
                f"{self.accumulate} would add up gradients of two scales: give trainer.precision=bf16-mixed, or leave "
                "out accumulate."
            )
        configured = []
        for player in self._players.values():
            optimizer = make_optimizer(player.groups, player.optimizer)
            then = (self.max_iters, self.extension.factor) if self.extension is not None else None
            configured.append({"optimizer": optimizer, "lr_scheduler": scheduled(optimizer, player.schedule, then)})
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the class, and leave out what training began from: the weights are all that a rebuilt method needs."""
        self._check_weights()
        checkpoint["method"] = f"{type(self).__module__}.{type(self).__qualname__}"
        if teachers := recorded_teachers(self, self.teachers()):
            checkpoint["teachers"] = teachers
        if "hyper_parameters" in checkpoint:
            checkpoint["hyper_parameters"] = without_origins(checkpoint["hyper_parameters"])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        # Not at an epoch's start: a resumed run makes its loaders' iterators, which draw, at another moment.
        torch.manual_seed(mixed_seed(self.seed, self.iteration, self.global_rank))
        optimizers = dict(zip(self._players, _as_list(self.optimizers()), strict=True))
        # Groups of batches that make a step; the last of an epoch, and of the training, may be smaller.
        place = batch_idx % self.accumulate
        left = min(self.trainer.num_training_batches - batch_idx, self.total_iters - self.iteration)
        group = min(self.accumulate, place + left)
        is_first, is_last = place == 0, place + 1 == group or self.trainer.is_last_batch
        weighted: dict[str, Tensor] = {}  # of players, which may have several backward passes
        waiting: set[str] = set()  # players with gradients, who are yet to step
        if is_first:
            self._following.begin()
        with without_ddp_reduction(self.trainer):
            for number, update in enumerate(self._updates(batch)):
                name, where = update.player, f"{type(update).__name__}({update.player}), number {number}"
                if isinstance(update, Step):
                    if name not in waiting:
                        raise RuntimeError(f"{type(self).__name__} yields {where}, without a Backward before it.")
                    waiting.remove(name)
                    if is_last:
                        agreed(True, f"{where} of iteration {self.iteration}", self.device)
                        average_gradients(self._players[name].parameters)
                        with self._following.step(name):
                            optimizers[name].step()
                        optimizers[name].zero_grad()  # now, not at the next step: the other players need the memory
                    continue
                terms = update.terms
                self._check_finite(name, terms, where)
                parts = torch.stack([term.weight * term.value.float() for term in terms.values()])
                if is_first and name not in waiting:
                    optimizers[name].zero_grad()
                waiting.add(name)
                self.manual_backward(parts.sum() / group, retain_graph=update.keep_graph)
                weighted[name] = torch.cat((weighted.get(name, parts[:0]), parts)).detach()
                logged = {f"train/{name}/{key}": term.value.detach() for key, term in terms.items()}
                self.log_dict(logged, batch_size=1)
                del update, terms, parts  # and with them the graph
        if waiting:
            raise RuntimeError(f"{type(self).__name__} made gradients for {', '.join(waiting)} and no Step after them.")
        losses = {f"train/{name}/loss": parts.sum() for name, parts in weighted.items() if len(parts) > 1}
        self.log_dict(losses | {"train/iteration": float(self.iteration)}, batch_size=1)
        # Here and not at the epoch's end: a checkpoint written on the last batch would miss the step.
        for schedule in _as_list(self.lr_schedulers()):
            schedule.step()

    def _updates(self, batch: Batch) -> Updates:
        """:meth:`updates`, or those of what follows, which say in a sentence if sizes are too small for them."""
        try:
            if self.extension is not None and self.iteration >= self.max_iters:
                yield from self.extension.updates(self, batch)
            else:
                yield from self.updates(batch)
        except (RuntimeError, ValueError) as error:
            images = {domain: sample["image"] for domain, sample in batch.items() if "image" in sample}
            if sentence := size_problem(error, {domain: image.shape for domain, image in images.items()}):
                raise UserError(sentence) from error
            raise

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Between epochs all ranks have the statistics that checkpoints get: they validate, select and label alike.
        if self.trainer.world_size > 1 and (self.trainer.is_last_batch or self.trainer.should_stop):
            share_statistics(self)
            with averaged_weights(self.trainer, self):
                share_statistics(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # The hook comes after unscaling; clipping between backward and step would clip scaled fp16 gradients. Fused
        # optimisers unscale while they step, so that theirs still are.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        is_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        scale = scaler.get_scale() if scaler is not None and is_scaled else 1.0
        for player, own in zip(self._players.values(), _as_list(self.optimizers()), strict=True):
            if own.optimizer is optimizer and player.clip_norm is not None:
                clip_grad_norm_(player.parameters, player.clip_norm * scale)

    def _check_finite(self, player: str, terms: dict[str, Term], where: str) -> None:
        finite = torch.stack([term.value.detach().isfinite().all() for term in terms.values()])
        # All ranks must agree to stop, or the others wait for ever in their next all-reduce.
        if agreed(bool(finite.all()), f"{where} of iteration {self.iteration}", self.device):
            return
        broken = [name for name, ok in zip(terms, finite.tolist(), strict=True) if not ok] or ["a term on another rank"]
        raise NotFiniteError(f"train/{player}/{', '.join(broken)} is not finite at iteration {self.iteration}")

    def _check_weights(self) -> None:
        """A gradient can be NaN where its loss is not: no checkpoint may hold what it makes of the weights."""
        broken = [name for name, parameter in self.named_parameters() if not parameter.isfinite().all()]
        trainer = trainer_of(self)
        if not broken if trainer is None else trainer.strategy.reduce_boolean_decision(not broken, all=True):
            return
        what = broken[0] if broken else "A weight on another rank"
        raise NotFiniteError(f"{what} is not finite after iteration {self.iteration}, for a gradient was not")


def tell_of_no_adaptation(source_iters: int, max_iters: int) -> None:
    """Warn of a training that ends with what comes before adaptation."""
    if source_iters >= max_iters:
        log.warning(
            "method.source_iters=%d leaves nothing of method.max_iters=%d to adapt in: raise the latter.",
            source_iters,
            max_iters,
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` is in evaluation mode; its former mode comes back afterwards."""
    was_training = module.training
    module.eval()
    yield
    module.train(was_training)


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Losses computed inside reach through ``networks`` without giving their parameters a gradient."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _as_list(one_or_many: Any) -> list[Any]:
    """Lightning hands out a list or a single object."""
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]
