"""Re-identification backbones; the contract is in :mod:`~da_lightning.reid.networks.base`."""

from da_lightning.reid.networks.base import Backbone, BackboneOptions
from da_lightning.reid.networks.light import LightBackbone
from da_lightning.reid.networks.resnet import ResNetBackbone
from da_lightning.reid.networks.timm import TimmBackbone

__all__ = ["Backbone", "BackboneOptions", "LightBackbone", "ResNetBackbone", "TimmBackbone"]
