"""Private parts of Lightning that we use: counters, checkpoints, signals, loggers, weight averaging."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from subprocess import Popen
from typing import Any, cast

import lightning.pytorch as L
from lightning.fabric.loggers.logger import _DummyExperiment as NoExperiment
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import nn

__all__ = ["NoExperiment"]  # what a logger's experiment is on other ranks: it takes any call, and does nothing


# -- modules -----------------------------------------------------------------------------------------------------------


def trainer_of(module: L.LightningModule) -> L.Trainer | None:
    """The trainer of ``module``; the public attribute raises where there is none, which prediction does without."""
    return module._trainer


def hyperparameters_of(module: Any) -> list[dict[str, Any]]:
    """Both copies of a module's options: loggers are given the one that Lightning made before any change."""
    return [module.hparams, getattr(module, "_hparams_initial", None) or {}]


# -- how far a training is ---------------------------------------------------------------------------------------------


def batch_number(trainer: L.Trainer) -> int:
    """The number of the batch in progress, or of the last one, over all epochs and resumes; -1 before the first.

    ``trainer.global_step`` counts optimiser steps, of which a batch has one for each player.
    """
    return trainer.fit_loop.total_batch_idx


def batches_done(trainer: L.Trainer) -> int:
    """Batches whose step has been done, over all epochs and resumes.

    In a resumed training, before its loops are restored, this is the checkpoint's count.
    """
    resumed = batches_in(trainer._checkpoint_connector._loaded_checkpoint) if trainer.training else None
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    return progress.total.processed if resumed is None else resumed


def batches_in(checkpoint: Mapping[str, Any]) -> int | None:
    """The same of the training in a checkpoint; ``None`` where it has no training."""
    try:
        done = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
    except (LookupError, TypeError):
        return None
    return done if isinstance(done, int) else None


def batches_begun_in_epoch(trainer: L.Trainer) -> int:
    """Batches begun in the present epoch. A checkpoint from inside an epoch starts with its own count."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def set_max_epochs(trainer: L.Trainer, epochs: int) -> None:
    """Change the length of a training that has begun: only then is the number of its batches known."""
    trainer.fit_loop.max_epochs = epochs


# -- processes and signals ---------------------------------------------------------------------------------------------


def divides_data(trainer: L.Trainer | None) -> bool:
    """Whether Lightning would give each rank a sampler of its own; the trainer does not show that option."""
    return bool(getattr(getattr(trainer, "_accelerator_connector", None), "use_distributed_sampler", False))


def started_processes(trainer: L.Trainer) -> Sequence[Popen]:
    """The other ranks of this machine, where Lightning has started them: signals have to reach them."""
    return getattr(trainer.strategy.launcher, "procs", ())


_terminate_all = _ChildProcessObserver._terminate_all


def leave_signals_alone(trainer: L.Trainer, is_stopping: Callable[[], bool]) -> None:
    """Turn off Lightning's handlers: they save in the middle of an epoch, requeue, and call collectives in a signal.

    Its observer kills all processes when one has ended with an error; not while they stop.
    """

    def terminate_unless_stopping(observer: _ChildProcessObserver) -> None:
        if not is_stopping():
            _terminate_all(observer)

    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    _ChildProcessObserver._terminate_all = terminate_unless_stopping  # type: ignore[assignment,method-assign]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def load_as_given(trainer: L.Trainer, guarded: Callable[[Any], AbstractContextManager[None]]) -> None:
    """Let ``trainer`` load the checkpoint that it is given, or none, and inside of ``guarded(path)``.

    Lightning would look for ``best``, ``last`` and a ``hpc_ckpt_*.ckpt`` that lies there; on SLURM it would put the job
    back into the queue at a signal. Its plugin for checkpoints sees files alone, not what Lightning makes of them.
    """
    connector = cast(AsGiven, trainer._checkpoint_connector)
    connector.__class__, connector.guarded = AsGiven, guarded
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


class AsGiven(_CheckpointConnector):
    """See :func:`load_as_given`."""

    guarded: Callable[[Any], AbstractContextManager[None]]

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, model_provided: bool, model_connected: bool) -> Any:
        return ckpt_path

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with self.guarded(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with self.guarded(self._ckpt_path):
            super().restore_training_state()

    def restore_optimizers(self) -> None:
        saved, own = len(self._loaded_checkpoint["optimizer_states"]), len(self.trainer.optimizers)
        if saved != own:  # Lightning would leave the rest as it is
            raise ValueError(f"it has {saved} optimisers and this training {own}")
        super().restore_optimizers()


def write_through(plugin: CheckpointIO, io: CheckpointIO) -> bool:
    """Let ``plugin``, which wraps another, write by ``io``: the strategy would put torch's own there.

    Returns:
        Whether it could be done: not where the plugin writes itself, or wraps one that does.
    """
    while isinstance(plugin, _WrappingCheckpointIO) and isinstance(plugin.checkpoint_io, _WrappingCheckpointIO):
        plugin = plugin.checkpoint_io
    if not isinstance(plugin, _WrappingCheckpointIO) or plugin.checkpoint_io is not None:
        return False
    plugin._checkpoint_io, plugin._base_checkpoint_io_configured = io, True
    return True


# -- averaged weights --------------------------------------------------------------------------------------------------


def average_of(callback: WeightAveraging) -> nn.Module | None:
    """The averaged copy of the module; ``None`` before it is made. Lightning makes it in ``setup``, once."""
    return callback._average_model


def drop_average(callback: WeightAveraging) -> None:
    """Drop the copy of the weights, so that it is made again after the method's own ``setup``."""
    callback._average_model = None


def swap_average(callback: WeightAveraging, module: L.LightningModule) -> None:
    """Exchange the weights of ``module`` and of the copy; Lightning does so around its validation alone."""
    callback._swap_models(module)


# -- loggers -----------------------------------------------------------------------------------------------------------


def opened(logger: Logger) -> Any:
    """What ``logger`` writes to, without opening it, as its ``experiment`` would; ``None`` before the first use."""
    return cast(Any, logger)._experiment


def open_as(logger: Logger, experiment: Any) -> Any:
    """Let ``logger`` write to ``experiment``, in the place of what it would open itself."""
    cast(Any, logger)._experiment = experiment
    return experiment


def wandb_options(logger: WandbLogger) -> dict[str, Any]:
    """The arguments of ``wandb.init``: Lightning adds one that W&B warns of, and calls it itself."""
    return logger._wandb_init


def artifacts_of(logger: WandbLogger) -> dict[Any, Any]:
    """The checkpoint callbacks whose files become artifacts at the end, by id; Lightning takes all that it has met."""
    return logger._checkpoint_callbacks


def set_artifacts(logger: WandbLogger, callbacks: dict[Any, Any]) -> None:
    """Let the files of ``callbacks`` alone become artifacts."""
    logger._checkpoint_callbacks = callbacks
