"""What is wrong with a configuration, said before anything is built or any stage runs."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from da_lightning.config.build import build
from da_lightning.config.roots import check_roots
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import UserError
from da_lightning.files import is_folder_name
from da_lightning.training.module import AdaptationModule
from da_lightning.training.norms import check_plain_norms
from da_lightning.training.strategy import count_processes
from da_lightning.training.teacher import check_one_average
from da_lightning.training.trainer_options import check_limits, check_trainer
from da_lightning.yaml_files import leaves

LARGEST_SEED = 2**32 - 1

OF_STAGES = ("needed", "provides", "each", "folder")
"""What a stage has and a run has not."""

RUN_FOLDERS = ("checkpoints", "pictures", "pseudo_labels", "wandb")
"""Folders of a run that no stage may be called."""


def check_configuration(cfg: DictConfig) -> None:
    """Check the options of a run that no constructor checks.

    Raises:
        UserError: One of them cannot work.
    """
    if type(cfg.seed) is not int or not 0 <= cfg.seed <= LARGEST_SEED:
        raise UserError(f"seed={cfg.seed} is no seed: give a whole number from 0 to {LARGEST_SEED}.")
    if type(cfg.test) is not bool:
        raise UserError(f"test={cfg.test} says neither yes nor no: give test=true or test=false.")
    check_trainer(_plain(cfg.trainer), cfg.test)
    build_trainer(cfg.trainer, logger=False, callbacks=[])  # Lightning refuses the rest, and ends there
    check_roots(cfg)


def check_built(cfg: DictConfig, data: SourceTargetDataModule, module: AdaptationModule) -> None:
    """Check the trainer's options and the batches against the data and the method.

    Raises:
        UserError: They do not go together.
    """
    check_one_average(module.teachers(), bool(cfg.callbacks.get("ema")))
    check_limits(_plain(cfg.trainer), data, cfg.test, processes_of(cfg.trainer))
    if cfg.trainer.get("sync_batchnorm"):
        check_plain_norms(module)
    module.check_batch(data.training_shapes)


def build_trainer(node: DictConfig, **extra: Any) -> L.Trainer:
    """The trainer; what Lightning refuses is a sentence.

    Raises:
        UserError: Options that it refuses.
    """
    try:
        return build(node, "trainer", **extra)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from None


def build_callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks that ``cfg.callbacks`` names."""
    return [build(node, f"callbacks.{key}") for key, node in cfg.callbacks.items() if node]


def check_left_out_source(cfg: DictConfig) -> None:
    """Check that no option has its value from a source which is null; before anything is resolved.

    Raises:
        UserError: One has.
    """

    if "source" not in cfg.data or cfg.data.source is not None:
        return
    for place, value in leaves(OmegaConf.to_container(cfg.data), "data"):
        if "${data.source." in str(value):
            raise UserError(
                f"{place}={value} takes its value from the source, but data.source=null: set data.source, set {place}, "
                "or leave out its set, for example with '~data.tests.source'."
            )


def check_stages(stages: dict[str, dict[str, Any]], sections: list[str]) -> None:
    """Check that each stage is a training that provides something, in folders of its own.

    Args:
        stages: By name, as plain values.
        sections: Parts of a run's configuration, which a stage may change.

    Raises:
        UserError: A stage lacks something, or has something that no run has.
    """
    for name, stage in stages.items():
        place = f"stages.{name}"
        needed, provides, each = (stage.get(part) for part in ("needed", "provides", "each"))
        if type(needed) is not bool:
            raise UserError(f"{place}.needed={needed} says neither yes nor no: give true or false.")
        if not (isinstance(provides, dict) and provides and all(isinstance(v, str) and v for v in provides.values())):
            raise UserError(
                f"{place}.provides={provides} does not say what the stage is for: give {{<option>: <folder of it>}}, "
                "like {data.translated: translated}."
            )
        parts = (part for path in provides.values() for part in Path(path).parts or [""])
        if name in RUN_FOLDERS or not all(map(is_folder_name, (name, *parts))):
            raise UserError(
                f"stages.{name!r} names a folder of the run, and its provides: paths inside that: expected letters, "
                f"digits, and _ - . : + between them, and none of {', '.join(RUN_FOLDERS)}."
            )
        if not (each is None or _has_target(each)):
            raise UserError(f"{place}.each={each} builds no parts: give null, or a node with _target_.")
        for part in ("method", "data"):
            if not _has_target(stage.get(part)):
                raise UserError(f"{place}.{part} is no {part}: a stage has a whole one, with _target_.")
        known = (*sections, *OF_STAGES)
        if unknown := [part for part in stage if part not in known]:
            raise UserError(f"{place}.{unknown[0]} is no part of a run: a stage has {', '.join(known)}.")


def _has_target(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("_target_"), str)


def processes_of(trainer: DictConfig) -> int:
    """Processes that the trainer of these options would have."""
    options = _plain(trainer)
    return count_processes(options["accelerator"], options["devices"], options["num_nodes"])


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))
