"""Methods of several trainings: stages are whole runs that come before the method and provide something for it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict

from da_lightning.config.build import build, build_method, check_targets
from da_lightning.errors import UserError
from da_lightning.files import problem_of_images
from da_lightning.preflight import OF_STAGES, check_built, check_configuration, check_left_out_source, check_stages
from da_lightning.processes import is_first_process
from da_lightning.session import epoch_length, quieten_lightning, train_and_test
from da_lightning.training.stage_plan import StagePlan

log = logging.getLogger(__name__)


def train_in_stages(
    cfg: DictConfig, run_dir: Path, method: str, data_name: str, sweep: Path | None = None, job: str | None = None
) -> float | None:
    """Run what ``cfg.stages`` names, each in ``run_dir/<stage>``, then the method itself in ``run_dir``.

    A stage is a set of changes to the configuration, and says with ``provides`` which options of the method it fills
    from its folder; where these are set by hand, or ``needed`` is false, it is left out. A stage with ``each`` is a run
    for each of the changes that ``each`` builds, by name, in ``run_dir/<stage>_<name>``; they share the stage's own
    folder, which the configuration knows as ``folder``. Finished stages of a run that goes on (``resume=auto``) are not
    repeated.

    A logger that sorts runs gets their places: the jobs of ``sweep``, a folder, are one group, and so are the stages of
    a method; ``job`` is the name of this job.

    Returns, Raises:
        See :func:`~da_lightning.session.train_and_test`.
    """
    quieten_lightning()
    cfg = cfg.copy()
    named = cast(dict, OmegaConf.to_container(cfg))["stages"]
    if not isinstance(named, dict):
        raise UserError(f"stages={named} names no stages: give stages.<name>.needed=false to leave one out.")
    with open_dict(cfg):
        for name, stage in named.items():
            if not isinstance(stage, dict):
                raise UserError(f"stages.{name}={stage} is no stage: give stages.{name}.needed=false to leave it out.")
            cfg.stages[name].folder = str(run_dir / name)
    stages = cast(dict[str, Any], OmegaConf.to_container(cfg.stages, resolve=True))
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "stages"])
    check_stages(stages, [str(key) for key in cfg])
    check_left_out_source(cfg)
    check_targets(cfg)
    for name, stage in stages.items():
        check_targets(_changed(cfg, stage, {}), f"stages.{name}.")
    check_configuration(cfg)
    run = job or "/".join(run_dir.parts[-3:])  # method, data, stamp
    group = "/".join(sweep.parts[-2:]) if sweep else run if stages else None
    is_checked = False
    for name, stage in stages.items():
        parts_of = {option: f"{name}/{part}" for option, part in stage["provides"].items()}
        provided = {option: run_dir / part for option, part in parts_of.items()}
        if not stage["needed"] or all(OmegaConf.select(cfg, option) is not None for option in provided):
            continue
        if earlier := _earlier(cfg.ckpt_path, parts_of):
            log.info("Stage %s is that of the run that goes on: %s.", name, ", ".join(map(str, earlier.values())))
            for option, folder in earlier.items():
                OmegaConf.update(cfg, option, str(folder))
            continue
        if not is_checked:  # what is wrong with the method must not wait for the end of its stages
            data = build(cfg.data, "data")
            own = build_method(cfg.method, data)
            check_built(cfg, data, own)
            own.check_length(epoch_length(data, cfg.trainer))
            for later in [stages[other] for other in list(stages)[list(stages).index(name) :]]:
                if later["needed"]:
                    check_configuration(_changed(cfg, later, {}))
            is_checked = True
        parts = _parts(name, stage)
        if cfg.resume == "auto":
            _reopen_damaged(list(provided.values()), [run_dir / part for part in parts])
        log.info("Stage %s comes first, for %s, in %d training(s).", name, " and ".join(provided), len(parts))
        for part, changes in parts.items():
            staged = _with_places(_changed(cfg, stage, changes), group=group, job_type=name, name=f"{run}/{part}")
            train_and_test(staged, run_dir / part, f"{method}/{part}", data_name)
        for option, folder in provided.items():
            OmegaConf.update(cfg, option, str(folder))
    return train_and_test(_with_places(cfg, group=group, job_type="method", name=run), run_dir, method, data_name)


def _reopen_damaged(folders: Sequence[Path], runs: Sequence[Path]) -> None:
    """Let finished ``runs`` of a stage end once more where images that they made are damaged or gone."""
    finished = [run / "metrics.json" for run in runs]
    if not all(file.is_file() for file in finished):
        return
    problem = next(filter(None, map(problem_of_images, folders)), None)
    if problem:
        log.warning("%s. These are made again.", problem)
        for file in finished if is_first_process() else ():
            file.unlink(missing_ok=True)


def _earlier(checkpoint: str | None, provided: dict[str, str]) -> dict[str, Path]:
    """What a stage left beside the run of ``checkpoint``, by option; nothing where a part of it is missing.

    A method trains when its stages have ended, so that a checkpoint of it shows that they have.
    """
    if checkpoint is None:
        return {}
    found = {option: Path(checkpoint).resolve().parents[1] / part for option, part in provided.items()}
    return found if all(folder.exists() for folder in found.values()) else {}


def _with_places(cfg: DictConfig, **places: str | None) -> DictConfig:
    """``cfg`` with those of ``places`` that its logger has as options, and nobody has set."""
    logger = cfg.logger or {}
    unset = {option: place for option, place in places.items() if option in logger and logger[option] is None}
    return cast(DictConfig, OmegaConf.merge(cfg, {"logger": unset} if unset else {}))


def _parts(name: str, stage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The runs of a stage: names of their folders, and what each changes beyond the stage's own changes."""
    if not stage.get("each"):
        return {name: {}}
    each = cast(StagePlan, build(OmegaConf.create(stage["each"]), f"stages.{name}.each"))
    return {f"{name}_{part}": changes for part, changes in each.changes().items()}


def _changed(cfg: DictConfig, stage: dict[str, Any], further: dict[str, Any]) -> DictConfig:
    """``cfg`` with another method and data as a whole, and what else the stage says, and ``further``, merged in."""
    changes = {key: value for key, value in stage.items() if key not in OF_STAGES}
    kept = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("method", "data")])
    return cast(
        DictConfig, OmegaConf.merge(kept, {"ckpt_path": None, "objective": None, "selection": None}, changes, further)
    )
