"""Segmentation networks by name; the contract is in :mod:`~da_lightning.segmentation.networks.base`."""

from collections.abc import Mapping
from typing import Any

from da_lightning.arguments import checked_arguments
from da_lightning.errors import UserError
from da_lightning.segmentation.networks.base import SegmentationNetwork
from da_lightning.segmentation.networks.deeplab import DeepLabV2
from da_lightning.segmentation.networks.light import LightNet
from da_lightning.segmentation.networks.vgg import DeepLabVGG16

NETWORKS: dict[str, type[SegmentationNetwork]] = {
    "light": LightNet,
    "deeplab": DeepLabV2,
    "deeplab_vgg16": DeepLabVGG16,
}


def build_network(options: Mapping[str, Any], num_classes: int) -> SegmentationNetwork:
    """Build a segmentation network.

    Args:
        options: ``name`` (a key of :data:`NETWORKS`) and that class's arguments.
        num_classes: K.

    Raises:
        UserError: An unknown name or option.
    """
    options = dict(options)
    name = options.pop("name", None)
    if name not in NETWORKS:
        raise UserError(f"method.network.name={name} is unknown: choose one of {', '.join(NETWORKS)}.")
    arguments = checked_arguments(NETWORKS[name], {"num_classes": num_classes, **options}, "method.network")
    return NETWORKS[name](**arguments)
