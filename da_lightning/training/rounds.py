"""Labels of the unlabelled target that are made again every so often: when, by which weights, and how a run resumes."""

import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import torch

from da_lightning.data.source_target import SourceTargetDataModule, data_of
from da_lightning.errors import CheckpointError, UserError
from da_lightning.files import copy_file
from da_lightning.private.lightning import batches_in
from da_lightning.training.ema import averaged_weights
from da_lightning.training.module import AdaptationModule, evaluating
from da_lightning.training.schedules import use_present_rates
from da_lightning.training.strategy import failing_together
from da_lightning.training.target_statistics import target_statistics

log = logging.getLogger(__name__)

Unit = Literal["iterations", "epochs"]


class Rounds(L.Callback):
    """Base of callbacks that label the target with the present weights, train on, and label it again.

    Optimisers forget their moments where a round begins.

    A round begins where an epoch ends, or before training. It never begins at an epoch's start: by then the loader's
    workers hold a copy of the data set, and would go on with the labels of the round before.

    Files of round k lie in ``<FOLDER>/round_<k>`` of the run. The folder has this name once all of them are written.

    Args:
        every: Length of a round.
        begin: Iterations or epochs before the first round; 0 makes labels before training.
        rounds: Number of rounds; ``None`` is until the training ends.
        unit: The unit of ``every`` and ``begin``. An epoch must divide both if it is ``iterations``, see
            :func:`align_epochs`.
    """

    FOLDER = "pseudo_labels"

    BEGIN = "begin"
    """What messages call the option that ``begin`` comes from."""

    further = 0
    """Iterations that come on top of the method's own ``max_iters``."""

    def __init__(self, every: int, begin: int = 0, rounds: int | None = None, unit: Unit = "iterations") -> None:
        self.every, self.begin, self.rounds, self.unit = every, begin, rounds, unit
        self.round = 0
        self.labels: dict[str, Any] = {}
        self.is_fresh = False  # whether nothing has been trained on the labels
        self._done = 0  # in units, by the checkpoint that the run resumes
        self._recorded_begin: int | None = None

    # -- what a subclass says ----------------------------------------------------------------------------------------

    def join(self, module: AdaptationModule, data: L.LightningDataModule) -> None:
        """Get ``module`` and ``data`` ready, before training and before its length is looked at; more than once.

        Raises:
            UserError: They do not go with this callback.
        """

    def make(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> dict[str, Any]:
        """Label this rank's share of the target for round ``self.round``; files, if there are any, go into ``folder``.

        The weights are those to label with, in evaluation mode and without gradients. Writing goes into
        :func:`~da_lightning.training.strategy.failing_together`.

        Returns:
            What is no file and must survive a stop, in plain values and tensors; the same on all ranks.
        """
        raise NotImplementedError

    def use(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> None:
        """Hand the labels, ``self.labels`` and the files in ``folder``, to whoever trains on them; on all ranks."""
        raise NotImplementedError

    def report(self, trainer: L.Trainer, module: AdaptationModule, folder: Path) -> None:
        """Log and draw what :meth:`make` has made; on the first rank."""

    def problem(self, trainer: L.Trainer, folder: Path) -> str | None:
        """What is wrong with the files in ``folder`` that a resumed round needs; ``None``: nothing."""
        return None

    # -- state: what a resumed run needs to go on inside a round -----------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("round", "begin", "labels", "is_fresh")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.round, self.labels = state_dict["round"], cast(Any, state_dict.get("labels"))
        self.is_fresh, self._recorded_begin = state_dict.get("is_fresh", False), state_dict.get("begin")
        if not isinstance(self.round, int):  # it becomes part of a path
            raise CheckpointError(f"The checkpoint's round is {self.round!r}: give another file.")
        if not isinstance(self.labels, dict):
            raise CheckpointError(
                f"The checkpoint of round {self.round} is from another version, whose rounds cannot be resumed: begin "
                "a new run with method.init_from=<the checkpoint>."
            )

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        epochs = checkpoint.get("epoch", -1) + 1
        self._done = epochs if self.unit == "epochs" else batches_in(checkpoint) or 0

    # -- when --------------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.join(cast(AdaptationModule, pl_module), data_of(trainer, SourceTargetDataModule))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(AdaptationModule, pl_module)
        if self.round and self._recorded_begin not in (None, self.begin):
            raise CheckpointError(
                f"The checkpoint is from round {self.round} of rounds that began after {self._recorded_begin} "
                f"{self.unit}, and here they begin after {self.begin}: give {self.BEGIN}={self._recorded_begin}, or "
                "begin a new run with method.init_from=<the checkpoint>."
            )
        if self._is_due(self._done) and (self.unit == "epochs" or self._done < module.total_iters):
            self._begin_round(trainer, module)
        elif self.round:
            self.use(trainer, module, self._labels_of_resumed_round(trainer, module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.is_fresh:  # a checkpoint's optimisers are restored after on_fit_start
            self._clear_optimizers(trainer)
            for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
                use_present_rates(scheduler)  # those of a training that was to end there

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
        self.is_fresh = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(AdaptationModule, pl_module)
        done = trainer.current_epoch + 1 if self.unit == "epochs" else module.iterations_done
        if module.iterations_done < module.total_iters and self._is_due(done):
            self._begin_round(trainer, module)

    def _is_due(self, done: int) -> bool:
        is_left = self.rounds is None or self.round < self.rounds
        return is_left and done >= self.begin + self.round * self.every

    # -- a round -----------------------------------------------------------------------------------------------------

    def _begin_round(self, trainer: L.Trainer, module: AdaptationModule) -> None:
        self.round += 1
        self.use(trainer, module, self._make(trainer, module))
        self.is_fresh = True
        self._clear_optimizers(trainer)

    def _clear_optimizers(self, trainer: L.Trainer) -> None:
        for optimizer in trainer.optimizers:
            optimizer.state.clear()

    def _make(self, trainer: L.Trainer, module: AdaptationModule) -> Path:
        folder = Path(trainer.default_root_dir) / self.FOLDER / f"round_{self.round}"
        partial = folder.with_suffix(".partial")
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        trainer.strategy.barrier()
        with averaged_weights(trainer, module):
            if statistics := target_statistics(trainer):
                statistics.estimate(trainer, module)
            with evaluating(module), torch.no_grad():
                try:
                    self.labels = self.make(trainer, module, partial)
                except UserError:
                    shutil.rmtree(partial, ignore_errors=True)  # whatever the reason, its space may be needed
                    raise
                with failing_together(trainer.strategy):
                    if trainer.is_global_zero and partial.is_dir():
                        shutil.rmtree(folder, ignore_errors=True)
                        partial.rename(folder)
                if trainer.is_global_zero:
                    self.report(trainer, module, folder)
                trainer.strategy.barrier()
        return folder

    def _labels_of_resumed_round(self, trainer: L.Trainer, module: AdaptationModule) -> Path:
        """The round's files, brought into this run's folder if the checkpoint comes from another.

        At the very start of a round the weights are those that make the labels, and make what is lost of them again.

        Raises:
            CheckpointError: Some are missing or damaged, and the training is further on.
        """
        here = Path(trainer.default_root_dir).resolve() / self.FOLDER / f"round_{self.round}"
        there = Path(trainer.ckpt_path or "").resolve().parent.parent / self.FOLDER / here.name
        # No other folder is looked at that the checkpoint names: a stranger's names any.
        problem = self.problem(trainer, there) if trainer.is_global_zero else None
        problem = trainer.strategy.broadcast(problem)
        if problem and self.is_fresh:
            log.warning("%s. They are made again: the checkpoint is from the start of the round.", problem)
            return self._make(trainer, module)
        if problem:
            raise CheckpointError(
                f"The checkpoint is from inside round {self.round}. {problem}: put them back, or begin a new run with "
                "method.init_from=<the checkpoint>."
            )
        with failing_together(trainer.strategy):
            if trainer.is_global_zero and there != here and there.is_dir():
                partial = here.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(there, partial, copy_function=copy_file)
                shutil.rmtree(here, ignore_errors=True)
                partial.rename(here)
        return here


def rounds_among(callbacks: Iterable[L.Callback]) -> list[Rounds]:
    """Those of ``callbacks`` that are rounds."""
    return [callback for callback in callbacks if isinstance(callback, Rounds)]


def align_epochs(data: SourceTargetDataModule, phases: Mapping[str, int]) -> None:
    """Give ``data`` epochs that end where rounds begin.

    Args:
        phases: Lengths in iterations, by the options that they come from; an epoch must divide each.

    Raises:
        UserError: ``data.iterations_per_epoch`` is set, and does not.
    """
    longest = math.gcd(*phases.values())
    lengths = " and ".join(f"{name}={length}" for name, length in phases.items())
    if data.iterations_per_epoch is None:
        data.iterations_per_epoch = longest
        if 10 * longest < min(length for length in phases.values() if length):
            log.warning(
                "An epoch is %d iterations, all that divides %s: choose lengths with a larger common divisor.",
                longest,
                lengths,
            )
    elif longest % data.iterations_per_epoch:
        raise UserError(
            f"data.iterations_per_epoch={data.iterations_per_epoch} must divide {lengths}, since rounds begin where "
            f"epochs end: use {longest}."
        )
