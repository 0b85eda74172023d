"""Whose code a configuration may name."""

import logging
import os
import sys
from functools import cache
from importlib.machinery import PathFinder
from itertools import accumulate

log = logging.getLogger(__name__)

VARIABLE = "DA_TRUSTED_PACKAGES"


@cache
def own_packages() -> tuple[str, ...]:
    """The packages whose classes may fill roles: ours, and those in ``DA_TRUSTED_PACKAGES=mine,theirs``.

    The variable is read once, before Hydra composes, so that no configuration can widen it.
    """
    found = []
    for name in filter(None, (entry.strip() for entry in os.environ.get(VARIABLE, "").split(","))):
        if not all(part.isidentifier() and not part.startswith("_") for part in name.split(".")):
            log.warning("%s names %r, which is no package's name: it is left out.", VARIABLE, name)
        elif name.split(".")[0] in sys.stdlib_module_names:
            log.warning("%s names %s, Python's own, which holds nothing to build: it is left out.", VARIABLE, name)
        else:
            if not _exists(name):
                log.warning("%s names %s, which cannot be imported here: check its spelling.", VARIABLE, name)
            found.append(name)
    return ("da_lightning", *found)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether the dotted ``name`` is one of ``packages`` or lies in one."""
    return f"{name}.".startswith(tuple(f"{package}." for package in packages))


def _exists(name: str) -> bool:
    """Whether there is such a package or module; nothing is imported to find out."""
    path = None
    for full in accumulate(name.split("."), "{}.{}".format):
        if (known := sys.modules.get(full)) is not None:  # however it was found
            path = getattr(known, "__path__", ())
        elif (spec := PathFinder.find_spec(full, path)) is None:
            return False
        else:
            path = spec.submodule_search_locations or ()
    return True
