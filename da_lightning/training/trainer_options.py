"""Options of Lightning's trainer: those that have no effect on our trainings, and those that leave nothing to do."""

import logging
import math
import platform
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as L
import torch

from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import UserError
from da_lightning.training.devices import check_devices

log = logging.getLogger(__name__)

_LENGTH = "trainings end after method.max_iters batches: set that instead"
_CLIP = "the methods step their optimisers themselves: set method.clip_norm instead"
INSTEAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "max_epochs": ((-1, None), _LENGTH),
    "min_epochs": ((None,), _LENGTH),
    "max_steps": ((-1, None), _LENGTH),
    "min_steps": ((None,), _LENGTH),
    "fast_dev_run": ((False, None), "debug=fast is the run that tries all parts on two batches"),
    "overfit_batches": ((0, None), "its sampler has no seeds, debug=overfit shows the same batches again and again"),
    "accumulate_grad_batches": ((1, None), "the methods step their optimisers themselves: set method.accumulate"),
    "gradient_clip_val": ((None,), _CLIP),
    "gradient_clip_algorithm": ((None,), _CLIP),
    "enable_checkpointing": ((True, None), "checkpoints are a callback: callbacks.checkpoint=null leaves them out"),
    "barebones": ((False, None), "a run logs and saves: choose logger=none, callbacks.checkpoint=null"),
    "reload_dataloaders_every_n_epochs": ((0, None), "an epoch's samples are a function of its number"),
    "use_distributed_sampler": ((False, None), "each device draws its own part of the data already"),
    "limit_predict_batches": ((None,), "a run trains and tests: python -m da_lightning.predict predicts"),
    "logger": ((None,), "choose it by logger=csv, none, tensorboard or wandb"),
    "callbacks": ((None,), "add them as +callbacks.mine={_target_: ...}"),
    "default_root_dir": ((None,), "the run's folder is hydra.run.dir"),
    "model_registry": ((None,), "checkpoints stay in the run's folder"),
}
"""By option: the values that change nothing, and what is there in its place."""

LIMITS = {
    "limit_train_batches": "leaves nothing to train on: give a number of batches from 1 on.",
    "limit_val_batches": "",
    "limit_test_batches": "leaves nothing to test: give test=false to leave out the test.",
}
"""Limits of batches, and why they cannot be 0 where they cannot."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Strategies by name that our methods run under."""


def check_trainer(options: Mapping[str, Any], is_tested: bool) -> None:
    """Check what can be told without the data.

    Args:
        options: Those of the trainer.
        is_tested: Whether the run tests.

    Raises:
        UserError: An option has no effect, or a value cannot work.
    """
    for name, (neutral, instead) in INSTEAD.items():
        if name in options and options[name] not in neutral:
            raise UserError(f"trainer.{name}={options[name]} has no effect here: {instead}.")
    for name, why in LIMITS.items():
        value = options.get(name)
        if value is not None and not _is_limit(value):
            raise UserError(
                f"trainer.{name}={value} cannot work: give a share between 0.0 and 1.0, or a whole number of batches."
            )
        if value == 0 and why and (is_tested or name != "limit_test_batches"):
            raise UserError(f"trainer.{name}=0 {why}")
    for name, least in (("num_nodes", 1), ("check_val_every_n_epoch", 1), ("num_sanity_val_steps", -1),
                        ("log_every_n_steps", 0)):  # fmt: skip
        value = options.get(name, least)
        if type(value) is not int or value < least:
            raise UserError(f"trainer.{name}={value} cannot work: give a whole number from {least} on.")
    check_devices(options.get("accelerator", "auto"), options.get("devices", "auto"))
    strategy = options.get("strategy", "auto")
    if isinstance(strategy, str) and strategy.lower() not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={strategy} is none that these methods run under, whose players step in turn by whole "
            "gradients (strategies that shard parameters have none): leave trainer.strategy=auto, or give one of "
            f"{', '.join(STRATEGIES)}."
        )
    has_gpus = options.get("accelerator", "auto") != "cpu" and torch.cuda.device_count() > 0
    if options.get("sync_batchnorm") and not has_gpus:
        raise UserError("trainer.sync_batchnorm=true needs GPUs: leave it out on the CPU.")


def check_limits(options: Mapping[str, Any], data: SourceTargetDataModule, is_tested: bool, processes: int) -> None:
    """Check that limits which are shares leave a batch of an epoch and of each test and validation set.

    Raises:
        UserError: They do not.
    """
    epoch = data.epoch_length(processes)
    lengths = {"limit_train_batches": {"an epoch": epoch}}
    for name, sets in (
        ("limit_val_batches", data.validations),
        ("limit_test_batches", data.tests if is_tested else {}),
    ):
        lengths[name] = {f"the set {own}": math.ceil(len(data.ordered_loader(sets[own])) / processes) for own in sets}
    for name, parts in lengths.items():
        share = options.get(name)
        if not isinstance(share, float) or not 0 < share < 1:
            continue
        for what, batches in parts.items():
            if int(batches * share) < 1:
                raise UserError(
                    f"trainer.{name}={share} of {what} is less than one batch, since it has {batches}: give "
                    f"{math.ceil(1000 / batches) / 1000:g} or more, or a whole number of batches."
                )
    interval = options.get("val_check_interval")
    limit = options.get("limit_train_batches")
    if limit is not None:
        epoch = min(epoch, limit) if type(limit) is int or limit > 1 else int(epoch * limit)
    if type(interval) is int and interval > epoch or isinstance(interval, float) and int(epoch * interval) < 1:
        raise UserError(
            f"trainer.val_check_interval={interval} is not within an epoch, which has {epoch} batches: give a number "
            "of batches up to that, or a share of them."
        )


def _is_limit(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0 and (value <= 1 or value % 1 == 0)


# -- bfloat16 ----------------------------------------------------------------------------------------------------------

_is_said = False


def warn_of_emulated_bfloat16(trainer: L.Trainer) -> None:
    """Say once that this CPU has no instructions for bfloat16, in which the trainer computes."""
    global _is_said
    is_half = trainer.precision in ("bf16-mixed", "bf16-true")
    if is_half and trainer.strategy.root_device.type == "cpu" and not has_bfloat16() and trainer.is_global_zero:
        if not _is_said:
            log.warning(
                "trainer.precision=%s is many times slower than 32-true here: this CPU has no instructions for "
                "bfloat16 and emulates them.",
                trainer.precision,
            )
        _is_said = True


def has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 itself: AVX-512 BF16 or AMX, or what oneDNN asks for elsewhere."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else True
