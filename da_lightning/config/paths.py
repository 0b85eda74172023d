"""Finding ``conf/`` in a checkout, an editable install and a wheel alike."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def _conf_dir() -> Path:
    # A wheel carries conf/ inside the package; a checkout and an editable install have it beside the package.
    candidates = (_PACKAGE / "conf", _PACKAGE.parent / "conf")
    return next((c for c in candidates if (c / "config.yaml").is_file()), candidates[-1])


CONF_DIR = _conf_dir()
"""Absolute path of the folder that holds ``config.yaml``."""
