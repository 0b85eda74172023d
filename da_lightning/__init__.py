"""Unsupervised domain adaptation for images: PyTorch Lightning modules, composed by Hydra.

Methods and data modules can be imported from here, ``from da_lightning import MUNIT``. Each name loads its module, and
torch with it, when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; the table below is what Python does
    from da_lightning.reid.camera_style import CameraPair as CameraPair
    from da_lightning.reid.camera_style import CameraStyle as CameraStyle
    from da_lightning.reid.data import PersonDataModule as PersonDataModule
    from da_lightning.reid.ecn import ECN as ECN
    from da_lightning.reid.source_only import ReidSourceOnly as ReidSourceOnly
    from da_lightning.reid.spgan import SPGAN as SPGAN
    from da_lightning.segmentation.adaptsegnet import AdaptSegNet as AdaptSegNet
    from da_lightning.segmentation.cbst import CBST as CBST
    from da_lightning.segmentation.data import SegmentationDataModule as SegmentationDataModule
    from da_lightning.segmentation.source_only import SourceOnly as SourceOnly
    from da_lightning.translation.cyclegan import CycleGAN as CycleGAN
    from da_lightning.translation.data import UnpairedImages as UnpairedImages
    from da_lightning.translation.drit import DRIT as DRIT
    from da_lightning.translation.munit import MUNIT as MUNIT
    from da_lightning.translation.stargan import StarGAN as StarGAN
    from da_lightning.translation.unit import UNIT as UNIT
    from da_lightning.translation.unit_classifier import UNITClassifier as UNITClassifier

__version__ = "0.1.0"

_MODULES = {
    "AdaptSegNet": "segmentation.adaptsegnet",
    "CBST": "segmentation.cbst",
    "CameraPair": "reid.camera_style",
    "CameraStyle": "reid.camera_style",
    "CycleGAN": "translation.cyclegan",
    "DRIT": "translation.drit",
    "ECN": "reid.ecn",
    "MUNIT": "translation.munit",
    "PersonDataModule": "reid.data",
    "ReidSourceOnly": "reid.source_only",
    "SPGAN": "reid.spgan",
    "SegmentationDataModule": "segmentation.data",
    "SourceOnly": "segmentation.source_only",
    "StarGAN": "translation.stargan",
    "UNIT": "translation.unit",
    "UNITClassifier": "translation.unit_classifier",
    "UnpairedImages": "translation.data",
}
"""The module of each class, by the class's name."""

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
