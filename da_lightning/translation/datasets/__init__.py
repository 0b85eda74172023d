"""Data sets of images: folders as their users have them, digits, drawn shoes."""

from da_lightning.translation.datasets.base import ImageDataset, Images
from da_lightning.translation.datasets.digits import Digits
from da_lightning.translation.datasets.folder import AlignedImages, ImageFolder
from da_lightning.translation.datasets.toy import ToyShoes

__all__ = ["AlignedImages", "Digits", "ImageDataset", "ImageFolder", "Images", "ToyShoes"]
