"""Segmentation data sets: folders as their users have them."""

from da_lightning.segmentation.datasets.base import FileDataset, SegmentationDataset
from da_lightning.segmentation.datasets.camvid import CARLA, CamVid
from da_lightning.segmentation.datasets.cityscapes import BDD100K, GTA5, SYNTHIA, Cityscapes, CrossCity
from da_lightning.segmentation.datasets.folder import ImageLabelFolder
from da_lightning.segmentation.datasets.toy import ToyStreets

__all__ = [
    "BDD100K",
    "CARLA",
    "GTA5",
    "SYNTHIA",
    "CamVid",
    "Cityscapes",
    "CrossCity",
    "FileDataset",
    "ImageLabelFolder",
    "SegmentationDataset",
    "ToyStreets",
]
