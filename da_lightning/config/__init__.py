"""Where the options live and how they become objects; only the front doors look in here."""

from da_lightning.config.paths import CONF_DIR

__all__ = ["CONF_DIR"]
