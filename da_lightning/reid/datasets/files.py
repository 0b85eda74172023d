"""Sets of image files: what was found, checked and read."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, cast

from da_lightning.data.folders import find_images, listed_file
from da_lightning.data.images import read_image
from da_lightning.errors import DataError
from da_lightning.files import damaged_images
from da_lightning.reading import read_bytes
from da_lightning.reid.datasets.base import DISTRACTOR, PersonDataset

log = logging.getLogger(__name__)


class PersonFile(NamedTuple):
    """An image file and what is known of it; the person is ``None`` where labels are not read."""

    name: str
    path: Path
    camera: int
    person: int | None = None


class PersonFiles(PersonDataset):
    """The files that a layout's class has found, in its order.

    Args:
        files: All with a person, or none.
        labelled: Whether items have ``person``.
        published: Number of images of the published set; another one is told of.

    Raises:
        DataError: Two files of one name; on reading: a damaged file.
    """

    def __init__(self, files: Sequence[PersonFile], labelled: bool, published: int | None = None) -> None:
        self.files, self.labelled = list(files), labelled
        self.cameras = [file.camera for file in files]
        self.persons = [file.person for file in files if file.person is not None] if labelled else []
        first: dict[str, Path] = {}
        for file in files:
            if file.name in first:
                raise DataError(f"{file.path} is in one set with {first[file.name]}: name each image once.")
            first[file.name] = file.path
        if published not in (None, len(files)):
            log.warning(
                "The published set has %d images, this one has %d (the first is %s): scores do not compare.",
                published,
                len(files),
                files[0].path,
            )
        copies = same_content(tuple(self.files))
        for are_two, remedy in ((False, "remove one of each"), (True, "labelled as two persons: remove the wrong one")):
            if these := [group for group in copies if (len({file.person for file in group}) > 1) == are_two]:
                log.warning(
                    "%d images occur twice, the first is %s, the same as %s: %s.",
                    len(these),
                    these[0][1].path,
                    these[0][0].path,
                    remedy,
                )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].name

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        item = {"image": read_image(file.path), "camera": file.camera}
        return item | {"person": file.person} if self.labelled else item


@lru_cache(maxsize=16)  # stages build a set again and again
def same_content(files: tuple[PersonFile, ...]) -> list[tuple[PersonFile, ...]]:
    """Groups of files that are equal byte for byte, junk and distractors aside; only those of one size are read."""
    sizes = defaultdict(list)
    contents = defaultdict(list)
    try:
        for file in files:
            if file.person is None or file.person > DISTRACTOR:
                sizes[file.path.stat().st_size].append(file)
        for size, candidates in sizes.items():
            for file in candidates if size and len(candidates) > 1 else ():
                contents[size, blake2b(read_bytes(file.path, size)).digest()].append(file)
    except OSError as error:
        raise DataError(f"{file.path} cannot be read ({error.strerror or error}): mend or remove it.") from None
    return [tuple(group) for group in contents.values() if len(group) > 1]


def listed_person(root: Path, place: str, path: str, camera: str, person: str | None, first: int = 1) -> PersonFile:
    """The file that ``place``, a line of a list, calls ``path``.

    Args:
        person: ``None`` where labels are not read.
        first: The list's number of the first person, who becomes 1.

    Raises:
        DataError: No file under ``root``, or a number that is none.
    """
    numbers = []
    for what, text in (("person", person), ("camera", camera)):
        try:
            numbers.append(None if text is None else int(text))
        except ValueError:
            raise DataError(
                f"{place} gives {text!r} as {what}, which must be an integer: number them from 1."
            ) from None
    relative = listed_file(root, path, place)
    number = None if numbers[0] is None else numbers[0] + 1 - first
    return PersonFile(str(relative.with_suffix("")), root / relative, cast(int, numbers[1]), number)


def made_files(folder: Path, wanted: Sequence[Sequence[str]], what: str, option: str) -> list[Path]:
    """Images that were made from a set, whole: a training that draws them would reach a damaged one days later.

    Args:
        folder: Where they lie, at any depth.
        wanted: Names that each may have, without suffix; the first that is there counts.
        what: They are.
        option: That names the folder.

    Raises:
        DataError: Some are missing, empty, cut off or no images.
    """
    found = find_images(folder)
    known = [[found[name] for name in names if name in found] for names in wanted]
    if missing := [names for names, own in zip(wanted, known, strict=True) if not own]:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} {what}, the first is {' or '.join(missing[0])} (of "
            f"{len(found)} files found the first is {next(iter(found))}): let {option} be the folder made from this "
            "set, or complete it."
        )
    files = [own[0] for own in known]
    if damaged := damaged_images(files):
        raise DataError(
            f"{len(damaged)} of {len(files)} {what} in {folder} are damaged, the first is {damaged[0]}: remove these "
            f"and make them again (resume=auto does in the run that made them), or give {option} another folder."
        )
    return files
