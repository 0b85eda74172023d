"""Data sets of people: folders and lists as their users have them, query and gallery, drawn people."""

from da_lightning.reid.datasets.base import DISTRACTOR, JUNK, PersonDataset
from da_lightning.reid.datasets.lists import MSMT17, PersonManifest, UnrealPerson
from da_lightning.reid.datasets.market import Market, RandPerson
from da_lightning.reid.datasets.query_gallery import QueryGallery
from da_lightning.reid.datasets.toy import ToyPeople

__all__ = [
    "DISTRACTOR",
    "JUNK",
    "MSMT17",
    "Market",
    "PersonDataset",
    "PersonManifest",
    "QueryGallery",
    "RandPerson",
    "ToyPeople",
    "UnrealPerson",
]
