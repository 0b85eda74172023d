"""Segmentation networks; the contract is in :mod:`~da_lightning.segmentation.networks.base`."""

from da_lightning.segmentation.networks.base import Level, NetworkOptions, SegmentationNetwork
from da_lightning.segmentation.networks.deeplab import DeepLabV2
from da_lightning.segmentation.networks.encoder_decoder import EncoderDecoder, MiTNetwork, TimmNetwork
from da_lightning.segmentation.networks.heads import DAFormerHead, DeepLabHead, Head, LightHead, PlainHead
from da_lightning.segmentation.networks.light import LightNet
from da_lightning.segmentation.networks.vgg import DeepLabVGG16

__all__ = [
    "DAFormerHead",
    "DeepLabHead",
    "DeepLabV2",
    "DeepLabVGG16",
    "EncoderDecoder",
    "Head",
    "Level",
    "LightHead",
    "LightNet",
    "MiTNetwork",
    "NetworkOptions",
    "PlainHead",
    "SegmentationNetwork",
    "TimmNetwork",
]
