"""Sets whose file names say who was seen by which camera."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from da_lightning.data.folders import find_images
from da_lightning.errors import DataError
from da_lightning.reid.datasets.files import PersonFile, PersonFiles

_PERSON_AND_CAMERA = re.compile(r"(?:[A-Za-z]+_)?(?P<person>-?\d+)_c(?P<camera>\d+)(?:s\d+)?[_.]")
_CAMERA = re.compile(r"(?:.*?_)?c(?P<camera>\d+)(?:s\d+)?[_.]")
_PUBLISHED = {
    "market1501": {"bounding_box_train": 12936, "query": 3368, "bounding_box_test": 19732},
    "dukemtmc": {"bounding_box_train": 16522, "query": 2228, "bounding_box_test": 17661},
    "personx": {"bounding_box_train": 9840, "query": 5136, "bounding_box_test": 30816},
}


class Market(PersonFiles):
    """Any folder of Market-1501's names: ``0002_c1s1_000451_03.jpg`` is person 2, camera 1; -1 junk, 0 a distractor.

    DukeMTMC-reID (``0002_c1_f0044158.jpg``), PersonX and ClonedPerson have such names, too, as have repacked copies of
    MSMT17 with their two-digit cameras. Only the file's own name is read, never its folder's. Nothing is downloaded:
    Market-1501 is given out by its authors, and those of DukeMTMC withdrew it in 2019, because the people in it had not
    been asked.

    Args:
        root: The data set's folder.
        folder: Where under ``root``: ``bounding_box_train``, ``query``, ``bounding_box_test``.
        labelled: Whether items have persons; if not, names need no more than a camera: ``hall_c3_000451.jpg``.
        counts_of: Published set whose number of images this one should have; another number is a warning.

    Raises:
        DataError: No such folder, no images, or a name that does not parse; on reading: a damaged file.
    """

    def __init__(
        self,
        root: str | Path,
        folder: str = "",
        labelled: bool = True,
        counts_of: Literal["market1501", "dukemtmc", "personx"] | None = None,
    ) -> None:
        pattern = _PERSON_AND_CAMERA if labelled else _CAMERA

        def parse(name: str) -> tuple[int | None, int] | None:
            match = pattern.match(name)
            return match and (int(match["person"]) if labelled else None, int(match["camera"]))

        form = "0002_c1s1_000451_03.jpg (<person>_c<camera>_...)" if labelled else "hall_c3_7.jpg (..._c<camera>_...)"
        files = parsed_files(find_images(Path(root).expanduser(), folder), parse, form)
        super().__init__(files, labelled, _PUBLISHED[counts_of].get(folder) if counts_of else None)


class RandPerson(PersonFiles):
    """RandPerson's subset in one folder: ``000000_s00_c00_f000264.jpg``; for training alone.

    Scene and camera number (in either order) make one camera, 100 x the first number + the second; persons are numbered
    from 1.

    Args:
        root: The data set's folder.
        folder: Where under ``root``.
        labelled: Whether items have persons.
    """

    def __init__(self, root: str | Path, folder: str = "randperson_subset", labelled: bool = True) -> None:
        def parse(name: str) -> tuple[int, int] | None:
            match = re.match(r"(\d+)_(?:s(\d+)_c|c(\d+)_s)(\d+)_", name)
            return match and (int(match[1]) + 1, 100 * int(match[2] or match[3]) + int(match[4]))

        files = parsed_files(find_images(Path(root).expanduser(), folder), parse, "000000_s00_c00_f000264.jpg")
        super().__init__(files, labelled)


def parsed_files(
    images: Mapping[str, Path], parse: Callable[[str], tuple[int | None, int] | None], form: str
) -> list[PersonFile]:
    """Read person and camera out of the names of ``images``.

    Args:
        images: Paths by name.
        parse: From a file's name to person and camera, ``None`` for a name of another form.
        form: A name, for the message.

    Raises:
        DataError: Names of another form.
    """
    numbers = {name: parse(path.name) for name, path in images.items()}
    if strange := [images[name] for name, found in numbers.items() if found is None]:
        raise DataError(
            f"{len(strange)} of {len(images)} file names are not like {form}; the first is {strange[0]}: rename "
            "or remove them, or list the images in a file (dataset person_manifest)."
        )
    return [PersonFile(name, images[name], found[1], found[0]) for name, found in numbers.items() if found]
