"""Backbones by name; the contract is in :mod:`~da_lightning.reid.networks.base`."""

from collections.abc import Mapping
from typing import Any

from da_lightning.arguments import checked_arguments
from da_lightning.errors import UserError
from da_lightning.reid.networks.base import Backbone
from da_lightning.reid.networks.light import LightBackbone
from da_lightning.reid.networks.resnet import ResNetBackbone

BACKBONES: dict[str, type[Backbone]] = {
    "light": LightBackbone,
    "resnet18": ResNetBackbone,
    "resnet50": ResNetBackbone,
}


def build_backbone(options: Mapping[str, Any]) -> Backbone:
    """Build a backbone.

    Args:
        options: ``name`` (a key of :data:`BACKBONES`) and that class's arguments.

    Raises:
        UserError: An unknown name or option.
    """
    options = dict(options)
    name = options.pop("name", None)
    if name not in BACKBONES:
        raise UserError(f"method.backbone.name={name} is unknown: choose one of {', '.join(BACKBONES)}.")
    kind = BACKBONES[name]
    if kind is ResNetBackbone:
        options["model"] = name
    return kind(**checked_arguments(kind, options, "method.backbone"))
