"""Where the options live and how they become objects; only the front doors look in here."""

from typing import Any

from omegaconf import OmegaConf

from da_lightning.config import recipes
from da_lightning.config.paths import CONF_DIR
from da_lightning.config.secrets import decode, env
from da_lightning.errors import UserError

__all__ = ["CONF_DIR"]


def _class_map(path: str, part: str) -> Any:
    """``${class_map:<file>,<part>}``."""
    parts = ("colors", "ids", "count", "label_colors", "ignore_colors")
    if part not in parts:
        raise UserError(f"${{class_map:{path},{part}}} asks for {part}, but a class map has {', '.join(parts)}.")
    from da_lightning.config.class_map import read_class_map  # slow to import, and most commands never get here

    return getattr(read_class_map(path), part)


def _gpus() -> int:
    """``${gpus:}``, at least one."""
    from da_lightning.config.gpus import visible_gpus

    return max(1, len(visible_gpus()))


OmegaConf.register_new_resolver("class_map", _class_map, replace=True)
OmegaConf.register_new_resolver("gpus", _gpus, replace=True)
OmegaConf.register_new_resolver("oc.env", env, replace=True)
OmegaConf.register_new_resolver("oc.decode", decode, replace=True)
recipes.watch()
