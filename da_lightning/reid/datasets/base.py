"""What all data sets of people share."""

from collections.abc import Sequence

from da_lightning.data.named import NamedDataset

JUNK, DISTRACTOR = -1, 0


class PersonDataset(NamedDataset):
    """Items are ``{"image": uint8 [3, H, W] RGB, "camera": int}`` in full size, and ``"person"``, an int, if labelled.

    Numbers of persons and cameras are those of the files: neither begins at 0 or is without gaps; -1 is a bad box
    (junk), 0 somebody who is in no query (a distractor).

    Attributes:
        labelled: Whether items have ``person``; otherwise it is absent and never looked for.
        cameras: The camera of each item.
        persons: The person of each item; empty if not labelled.
    """

    labelled: bool
    cameras: Sequence[int]
    persons: Sequence[int]
