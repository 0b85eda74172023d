"""From a composed configuration to a run folder: build, train, test, write down."""

import logging
import shutil
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from omegaconf import DictConfig

from da_lightning.config.build import build, build_method
from da_lightning.config.resume import accepted_changes, read_summary
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import CheckpointError, UserError
from da_lightning.names import shown
from da_lightning.preflight import build_callbacks, check_built, check_configuration, processes_of
from da_lightning.processes import is_first_process
from da_lightning.report import leave_report
from da_lightning.stopping import deferred
from da_lightning.trainer import run_loggers, run_trainer
from da_lightning.training.checkpoint_io import RUN, keep_to_own_folder, restore_last
from da_lightning.training.checkpoints import (
    LAST,
    PREVIOUS,
    SOURCE_ONLY,
    check_resumable,
    check_weights,
    newest_training,
    read_checkpoint,
)
from da_lightning.training.media import MediaLogger
from da_lightning.training.module import AdaptationModule
from da_lightning.training.results import draw_bars, peak_memory_mb, print_table, versions, write_metrics
from da_lightning.training.rounds import rounds_among
from da_lightning.training.run_record import check_unchanged, run_record
from da_lightning.training.selection import Selection
from da_lightning.training.trainer_options import warn_of_emulated_bfloat16

log = logging.getLogger(__name__)


def train_and_test(cfg: DictConfig, run_dir: Path, method: str, data_name: str) -> float | None:
    """Train ``cfg.method`` on ``cfg.data``, test the last or the selected weights, fill ``run_dir``.

    Returns:
        The test score named by ``cfg.objective`` or by the method, ``None`` where there is none.

    Raises:
        UserError: Anything in the configuration, the data or a checkpoint that a user can mend.
    """
    quieten_lightning()
    torch.set_flush_denormal(True)  # denormals can stall a small network's training on a CPU
    torch.set_float32_matmul_precision("high")
    started = time.monotonic()
    accepted = accepted_changes(cfg.accept_changes)
    finished = read_summary(run_dir / "metrics.json") if cfg.resume == "auto" else None
    if finished and not _is_to_go_on(cfg, finished):
        log.info("%s is finished: skipped.", run_dir)
        return finished["test"].get(cfg.objective or finished.get("objective"))
    # Says what is wrong with a damaged or hostile file before anything is built.
    checkpoint, content = _training_to_resume(cfg, run_dir)
    if cfg.resume == "auto" and not checkpoint:
        log.info("resume=auto: this run has no checkpoint to continue from, and begins as a new one.")
    check_configuration(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = cast(L.LightningDataModule, build(cfg.data, "data"))
    module = build_method(cfg.method, data)
    objective = cfg.objective or module.objective
    selection = cast(Selection, build(cfg.selection, "selection")) if cfg.selection else None
    check_built(cfg, cast(SourceTargetDataModule, data), module)
    callbacks = build_callbacks(cfg)
    for rounds in rounds_among(callbacks):
        rounds.join(module, data)
    if selection:
        selection.check(module, data)
    known_method = None if "/" in method else method  # a stage's is its own
    length = partial(epoch_length, trainer=cfg.trainer)
    record = run_record(known_method, module, data, cfg.seed, processes_of(cfg.trainer), length)
    is_own = False
    if checkpoint:
        is_own = checkpoint.is_relative_to(run_dir.absolute())
        check_resumable(checkpoint, content, module, is_averaged=bool(cfg.callbacks.get("ema")))
        check_unchanged(checkpoint, content.get(RUN), record, accepted, is_automatic=is_own)
        _check_kept_weights(checkpoint, content, module, selection if is_own else None)
    del content  # as large as the network and its optimisers together
    _clear(run_dir, keep_training=is_own)
    if checkpoint and is_own and checkpoint.name == PREVIOUS:
        if is_first_process():  # the others meet it in fit(), before they load
            restore_last(checkpoint)
        checkpoint = checkpoint.with_name(LAST)
    known = {"method": method, "data": data_name, "versions": versions()}
    if cfg.logger:
        known["samples"] = {name: record[name] for name in ("source", "target", "tests", "validations")}
    with (
        deferred(),
        run_loggers(cfg, run_dir, known, is_resumed=checkpoint is not None) as loggers,
        run_trainer(cfg, run_dir, method, callbacks, loggers, selection, record) as trainer,
    ):
        log.info("Run folder: %s", run_dir)
        log.info("%s on %s, seed %d, precision %s.", method, data_name, cfg.seed, trainer.precision)
        warn_of_emulated_bfloat16(trainer)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        scores = _test(trainer, module, data, run_dir, selection) if cfg.test else {}
        how = selection.describe(module) if selection else "last iteration"
        if trainer.is_global_zero:
            summary = {
                "method": method,
                "data": data_name,
                "seed": cfg.seed,
                "selection": how,
                "objective": objective,
                "versions": known["versions"],
                # None have been counted here where Lightning has started processes to train in.
                "iterations": module.iterations_done or module.total_iters,
                "devices": trainer.world_size,
                "test": scores,
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_mb": round(peak_memory_mb(), 1),
            }
            # Before anything is drawn, sent or shown, any of which may fail.
            write_metrics(run_dir / "metrics.json", summary)
            final = {name: score for name, score in scores.items() if not name.startswith("last/")}
            draw_bars(final, run_dir / "pictures" / "per_class.png")
            for logger in loggers:
                if isinstance(logger, MediaLogger):
                    logger.log_summary(summary)
            leave_report(run_dir)
            if scores:
                print_table(scores, f"{method} on {data_name} ({how}, seed {cfg.seed})")
            print(f"{shown(run_dir)}: {summary['seconds']:.0f} s, {summary['peak_memory_mb']:.0f} MB")
    if cfg.objective and scores and cfg.objective not in scores:
        raise UserError(f"objective={cfg.objective} is none of the run's scores: give one of {', '.join(scores)}.")
    return scores.get(objective) if objective else None


def quieten_lightning() -> None:
    """Leave out what Lightning says on every run of ours and nobody can act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # Hydra's handlers print the same lines
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own call
        ".*Total length of `list` across ranks is zero.*",  # no validation sets
        ".*Experiment logs directory.*exists and is not empty.*",  # the run folder, which Hydra has made
        ".*does not have many workers.*",  # data.num_workers is an option, with a reason in each pair's file
        ".*The number of training batches .* is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The dirpath has changed from .*",  # of a run that continues in another folder
        ".*You passed in a `val_dataloader` but have no `validation_step`.*",  # of a family that validates nothing
        ".*You have overridden `on_after_batch_transfer` in `LightningModule`.*",  # as translation means to
        ".*WeightAveraging callback with a model that overrides the configure_model.*",  # which may be called again
        ".*will save all extracted features in buffer.*",  # KID, which is asked for by name
        ".*The `srun` command is available on your system but is not used.*",  # one machine of a cluster may be enough
        ".*recommended to use `self.log\\(.*sync_dist=True\\)`.*",  # scores are of all ranks before they are logged
        ".*Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`.*",  # a player yet to begin
    ):
        warnings.filterwarnings("ignore", message=message)


def epoch_length(data: SourceTargetDataModule, trainer: DictConfig) -> int:
    """Iterations of an epoch under the trainer's options."""
    length = data.epoch_length(processes_of(trainer))
    limit = trainer.get("limit_train_batches")
    if limit is None:
        return length
    return max(1, min(length, limit) if isinstance(limit, int) else int(length * limit))


def _is_to_go_on(cfg: DictConfig, summary: dict[str, Any]) -> bool:
    """Whether a finished training is shorter than the one that is asked for now."""
    done, asked = summary.get("iterations"), cfg.method.get("max_iters")
    further = sum(rounds.further for rounds in rounds_among(build_callbacks(cfg)))
    if not isinstance(done, int) or asked is None or done >= asked + further:
        return False
    longest = build_method(cfg.method, build(cfg.data, "data")).max_iters + further
    limits = (longest, (cfg.callbacks.get("stop") or {}).get("at_most"))
    return done < min(limit for limit in limits if limit is not None)


def _clear(run_dir: Path, keep_training: bool) -> None:
    """Remove what an earlier run in this folder has left and this one would take for its own.

    Checkpoints of an earlier training are kept in ``checkpoints/earlier``.
    """
    (run_dir / "metrics.json").unlink(missing_ok=True)
    if not is_first_process():
        return
    checkpoints = run_dir / "checkpoints"
    for part in checkpoints.glob(".part-*"):  # of a process that was killed
        part.unlink(missing_ok=True)
    if keep_training:
        return
    for file in checkpoints.glob("*.ckpt"):
        (checkpoints / "earlier").mkdir(exist_ok=True)
        file.replace(checkpoints / "earlier" / file.name)
    shutil.rmtree(run_dir / "pseudo_labels", ignore_errors=True)


def _training_to_resume(cfg: DictConfig, run_dir: Path) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from, and what it holds."""
    if cfg.resume == "auto" and (found := newest_training(run_dir.absolute() / "checkpoints")):
        path, content = found
    elif cfg.ckpt_path is not None:
        path = Path(str(cfg.ckpt_path)).expanduser().absolute()  # so that Lightning has no word to interpret
        content = read_checkpoint(path)
    else:
        return None, {}
    keep_to_own_folder(content, path)
    return path, content


def _check_kept_weights(
    checkpoint: Path, content: dict[str, Any], module: AdaptationModule, selection: Selection | None
) -> None:
    """Look at the weights that are tested when the training ends, beside its own last ones, before it continues.

    Raises:
        CheckpointError: They are damaged, or of another network.
    """
    source_only = checkpoint.with_name(SOURCE_ONLY)
    files = {source_only: "remove it to continue without source_only scores"} if source_only.is_file() else {}
    states = content.get("callbacks")
    if selection and isinstance(states, dict) and (state := states.get(selection.state_key)):
        files[Path(state["best_model_path"])] = "begin a new run with resume=never"
    for file, remedy in files.items():
        try:
            check_weights(file, read_checkpoint(file), module)
        except CheckpointError as error:
            raise CheckpointError(f"{str(error).rstrip('.')}; or {remedy}.") from None


def _test(
    trainer: L.Trainer,
    module: AdaptationModule,
    data: L.LightningDataModule,
    run_dir: Path,
    selection: Selection | None,
) -> dict[str, float]:
    """Scores of the last weights and, where the method began with source-only training, of what it began from.

    Where weights were selected, theirs are the scores, and those of the last are under ``last/``.
    """
    if not data.test_dataloader():
        log.info("data.tests names no labelled set, so there is nothing to test: look at pictures/.")
        return {}
    if selection and not Path(selection.best_model_path).is_file():
        raise UserError(
            f"selection={selection.score} has scored no epoch: the training had ended before. Give selection=last, or "
            "train anew."
        )

    def tested(prefix: str = "", checkpoint: str | Path | None = None) -> dict[str, float]:
        found = trainer.test(module, ckpt_path=checkpoint, datamodule=data, verbose=False, weights_only=True)[0]
        return {f"{prefix}{name}": float(value) for name, value in found.items()}

    last = tested()
    scores = dict(last)
    source_only = run_dir.absolute() / "checkpoints" / SOURCE_ONLY
    if source_only.is_file():
        try:
            check_weights(source_only, read_checkpoint(source_only), module)
        except CheckpointError as error:  # of the training, nothing may be lost now
            log.warning("%s There are no source_only scores.", error)
        else:
            scores |= tested("source_only/", source_only)
    if selection:  # after all others, so that the pictures of the test are of these weights
        scores |= {f"last/{name}": value for name, value in last.items()}
        scores |= tested(checkpoint=selection.best_model_path)
    return scores
