"""The front door: ``python -m da_lightning.run method=cbst data=toy_streets``.

Composes the options under ``conf/``, then trains and tests; :mod:`da_lightning.stages` and
:mod:`da_lightning.session` do the work.
"""

import os
import re
import sys
from collections.abc import Sequence

from da_lightning.stopping import Stopped, as_stopped, begin, check, ending

if __name__ == "__main__":
    begin()  # before the imports, which take a second

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from da_lightning.config import (
    CONF_DIR,
    logs,  # noqa: F401  (mends what Hydra does where a folder cannot be made)
)
from da_lightning.config.jobs import Place, note, note_failure, place_of, prepare_job
from da_lightning.config.recipes import import_plugins, refuse_rerun
from da_lightning.config.run_lock import HeldError, held
from da_lightning.config.secrets import hidden, hide_in_logs
from da_lightning.config.stamp import set_stamp
from da_lightning.config.sweep_table import STOPPED
from da_lightning.config.sweeps import prefer_own_presets
from da_lightning.config.trust import own_packages
from da_lightning.errors import UserError
from da_lightning.files import disk_problem
from da_lightning.loading import load_tensors_alone
from da_lightning.names import shown
from da_lightning.private.hydra import parsed
from da_lightning.screen import steady_output
from da_lightning.yaml_files import leaves

# Heavy imports (torch, lightning) wait until Hydra has composed: --help and --cfg must answer at once.


def main() -> None:
    """Entry point of ``python -m da_lightning.run`` and of ``da-lightning run``."""
    steady_output()
    load_tensors_alone()
    arguments = sys.argv[1:]
    with ending():
        own_packages()
        refuse_rerun(arguments)
        import_plugins()
        refuse_swept_devices(arguments)
        refuse_empty_groups(arguments)
        if not os.environ.get("DA_DATA_DIR"):  # an empty one is none
            os.environ.pop("DA_DATA_DIR", None)
        sys.argv += set_stamp(arguments)
        prefer_own_presets()
        try:
            hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(run)()
        except CompactHydraException as error:  # before a run: Hydra prints those of runs itself
            sys.exit(str(error))


def run(cfg: DictConfig) -> float | None:
    """One run, or one job of a sweep; returns the score named by ``objective``, for sweepers."""
    steady_output()  # a launcher may have started this process
    load_tensors_alone()
    begin()
    check()  # for no job begins after a signal
    place = place_of(HydraConfig.get())
    try:
        with held(place.folder):
            return _run(cfg, place) if place.sweep is None else _job(cfg, place)
    except HeldError as error:
        raise CompactHydraException(f"error: {error}") from None


def _job(cfg: DictConfig, place: Place) -> float | None:
    """Run one job of a sweep. A job that fails has no score, and the sweep continues."""
    prepare_job(cfg, place)
    try:
        return _run(cfg, place)
    except Stopped:
        note(place, STOPPED)
        raise
    except Exception as error:
        note_failure(place, error)
        return None


def _run(cfg: DictConfig, place: Place) -> float | None:
    with as_stopped():
        return _train(cfg, place)


def _train(cfg: DictConfig, place: Place) -> float | None:
    hide_in_logs()
    try:
        missing = _missing_keys(cfg)
        if missing:
            raise UserError(f"{', '.join(missing)} must be set: add {missing[0]}=... to the command.")
        if cfg.resume not in ("auto", "never"):
            raise UserError(
                f"Expected resume=auto or resume=never, but found resume={cfg.resume}: to go on from a checkpoint, "
                "give ckpt_path=<its file>."
            )
        from da_lightning.stages import train_in_stages

        choices = place.choices
        return train_in_stages(cfg, place.folder, choices["method"], choices["data"], place.sweep, place.job)
    except (UserError, OmegaConfBaseException) as error:
        raise CompactHydraException(f"error: {hidden(_sentence(error))}") from None
    except (OSError, RuntimeError) as error:
        if (problem := disk_problem(error)) is None:
            raise
        raise CompactHydraException(f"error: {problem}") from error


def _missing_keys(cfg: DictConfig) -> list[str]:
    """Options still to be given; OmegaConf's own search stops at the first that refers to one."""
    return sorted(key for key, value in leaves(OmegaConf.to_container(cfg)) if value == "???")


def _sentence(error: UserError | OmegaConfBaseException) -> str:
    """What a `UserError` says, without what came around it on the way: a resolver's words, a worker's traceback."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, UserError):
        inner = inner.__context__
    if inner is None:
        return shown(f"{getattr(error, 'full_key', None)}: {str(error).splitlines()[0]}.")
    text = Exception.__str__(inner)  # a worker's has several lines, and str() is of one
    return shown(re.sub(r"(?ms).*^[\w.]*Error: ", "", text.strip()) if "Original Traceback" in text else text)


def refuse_swept_devices(arguments: Sequence[str]) -> None:
    """Each process of a job runs the whole command again, so jobs with different numbers of processes would collide."""
    swept = [a for a in arguments if a.startswith(("trainer.devices=", "trainer.num_nodes="))]
    if {"-m", "--multirun"} & set(arguments) and any(o.is_sweep_override() for o in parsed(swept) or ()):
        sys.exit(f"error: {' '.join(swept)} cannot be swept: start one command for each number of devices.")


def refuse_empty_groups(arguments: Sequence[str]) -> None:
    """``logger=null`` looks as if it should work, and Hydra answers it with a traceback."""
    groups = ("callbacks", "data", "debug", "experiment", "logger", "method", "selection", "trainer")
    for group, _, value in (argument.partition("=") for argument in arguments):
        if group in groups and "null" in value.split(","):
            files = ", ".join(sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml")))
            sys.exit(f"error: {group}=null is no choice: leave {group} out or give one of {files}.")


if __name__ == "__main__":
    main()
