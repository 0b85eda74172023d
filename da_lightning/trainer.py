"""The trainer of a run, with its callbacks, and the loggers that it writes to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.build import build
from da_lightning.config.secrets import recorded
from da_lightning.errors import UserError
from da_lightning.preflight import build_trainer
from da_lightning.processes import is_first_process
from da_lightning.training.checkpoint_io import WholeCheckpoints, take_charge_of_checkpoints, with_own_io
from da_lightning.training.loggers import MetricsFile, guarded
from da_lightning.training.media import MediaLogger
from da_lightning.training.phases import in_phases
from da_lightning.training.progress import ProgressLines, has_terminal
from da_lightning.training.selection import Selection
from da_lightning.training.stopping import StopAtSignal, take_signals_from
from da_lightning.training.strategy import resolve_strategy


@contextmanager
def run_trainer(
    cfg: DictConfig,
    run_dir: Path,
    method: str,
    callbacks: list[L.Callback],
    loggers: list[Logger],
    selection: Selection | None,
    record: dict[str, Any],
) -> Iterator[L.Trainer]:
    """The trainer of ``cfg`` for the run in ``run_dir``, with ``callbacks`` and those that every run has.

    Raises:
        UserError: Options that Lightning refuses.
    """
    callbacks = [*callbacks, StopAtSignal(f"the training of {method}"), *([selection] if selection else [])]
    if not cfg.trainer.enable_progress_bar:
        bars = (L.callbacks.ProgressBar, ProgressLines)
        callbacks = [callback for callback in callbacks if not isinstance(callback, bars)]
    elif not has_terminal():
        callbacks = [ProgressLines() if isinstance(c, L.callbacks.ProgressBar) else c for c in callbacks]
    has_bar = any(isinstance(callback, L.callbacks.ProgressBar) for callback in callbacks)
    for callback in callbacks:
        if isinstance(callback, L.callbacks.ModelCheckpoint):
            callback.dirpath = str(run_dir / "checkpoints")
    options = cfg.trainer
    strategy = resolve_strategy(options.strategy, options.accelerator, options.devices, options.num_nodes)
    node = cast(DictConfig, OmegaConf.merge(options, {"strategy": strategy, "enable_progress_bar": has_bar}))
    given = cast(dict, OmegaConf.to_container(options, resolve=True)).get("plugins")  # words: build() refuses others
    plugins = with_own_io(given, WholeCheckpoints(record))
    try:
        trainer = build_trainer(
            node, logger=loggers, callbacks=in_phases(callbacks), default_root_dir=str(run_dir), plugins=plugins
        )
        take_charge_of_checkpoints(trainer)
        take_signals_from(trainer)
        yield trainer
    except MisconfigurationException as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


@contextmanager
def run_loggers(cfg: DictConfig, run_dir: Path, known: dict[str, Any], is_resumed: bool) -> Iterator[list[Logger]]:
    """``metrics.csv`` and what ``cfg.logger`` names, closed whatever happens, so that the next job has its own record.

    Args:
        known: What is recorded with the configuration.
    """
    if is_resumed and (run_dir / "metrics.csv").is_file() and is_first_process():
        # The logger starts a new file; what the run logged before stays under the number of the attempt.
        earlier = len(list(run_dir.glob("metrics.*.csv")))
        (run_dir / "metrics.csv").rename(run_dir / f"metrics.{earlier}.csv")
    loggers: list[Logger] = [guarded(MetricsFile(run_dir))]
    failed = True
    try:
        if cfg.logger:
            loggers.append(guarded(build(cast(DictConfig, cfg.logger), "logger", save_dir=str(run_dir))))
            loggers[-1].log_hyperparams({"run": known} | recorded(cfg))
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if isinstance(logger, MediaLogger):
                logger.close(failed)
