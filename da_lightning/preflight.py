"""What is wrong with a configuration, said before anything is built or any stage runs."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from da_lightning.config.roots import check_roots
from da_lightning.training.devices import check_devices


def check_configuration(cfg: DictConfig) -> None:
    """Check the options of a run that no constructor checks.

    Raises:
        UserError: One of them cannot work.
    """
    trainer = cast(dict[str, Any], OmegaConf.to_container(cfg.trainer, resolve=True))
    check_devices(trainer.get("accelerator", "auto"), trainer.get("devices", "auto"))
    check_roots(cfg)
