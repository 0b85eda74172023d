"""What networks and backbones have in common, and how a method builds one from its options."""

from abc import ABC
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from da_lightning.arguments import checked_arguments
from da_lightning.config.roles import class_of_role
from da_lightning.errors import UserError
from da_lightning.training.exportable import Normalisation


class Network(nn.Module, ABC):
    """A part that a method builds from a mapping of its own: a network, a backbone, a head."""

    normalisation: Normalisation | None = None
    """By which mean and deviation it normalises images; ``None`` for heads."""


Part = TypeVar("Part", bound=Network)


def build_part(options: Any, base: type[Part], key: str, **given: Any) -> Part:
    """Build a network, a backbone or a head.

    Args:
        options: ``{"_target_": "package.module.Class", ...}`` with that class's options.
        base: The class that it must be derived from.
        key: Where the options come from, for messages: ``method.network``.
        given: What every class of this kind takes besides: the number of classes, say.

    Raises:
        UserError: No such class or option, or a package that is not installed.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"Expected {key} to be a mapping with _target_, but found {type(options).__name__}: write one.")
    if "_target_" not in options:
        raise UserError(
            f"Expected {key}._target_ to name a class derived from {base.__name__}, but found {options!r}: give one of "
            "those in conf/, or your own. Checkpoints without it need the version of da_lightning that wrote them."
        )
    name = options["_target_"]
    kind = class_of_role(name, (base,), f"{key}._target_={name}")
    own = {option: value for option, value in options.items() if option != "_target_"}
    try:
        return kind(**checked_arguments(kind, {**given, **own}, key))
    except ModuleNotFoundError as error:
        raise UserError(f"{key} needs a package that is not installed: {error}") from None
