"""The two labelled sets of a test as one."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import Dataset

from da_lightning.errors import DataError
from da_lightning.reid.datasets.base import DISTRACTOR, PersonDataset
from da_lightning.reid.datasets.files import PersonFiles, same_content

log = logging.getLogger(__name__)


class QueryGallery(Dataset[dict[str, Any]]):
    """Queries, then the gallery; items of both have ``"is_query"``, a bool, besides image, person and camera.

    For each query the gallery's images of its person by other cameras are to be found; those by its own camera do not
    count. Queries that have nothing to find are told of.

    Args:
        query, gallery: Labelled sets of one numbering of persons and cameras.

    Raises:
        DataError: An unlabelled set, a query of junk or a distractor, nothing to find for any query, or one image in
            query and gallery as of two cameras.

    Attributes:
        is_query, persons, cameras: Of each item.
    """

    def __init__(self, query: PersonDataset, gallery: PersonDataset) -> None:
        self.query, self.gallery = query, gallery
        for name, dataset in (("query", query), ("gallery", gallery)):
            if not dataset.labelled:
                raise DataError(f"The {name} of a test must have persons: set {name}.labelled=true.")
        self.is_query = [True] * len(query) + [False] * len(gallery)
        self.persons = [*query.persons, *gallery.persons]
        self.cameras = [*query.cameras, *gallery.cameras]
        _check_persons(query)
        _check_positives(query, gallery)
        if isinstance(query, PersonFiles) and isinstance(gallery, PersonFiles):
            _check_copies(query, gallery)

    def __len__(self) -> int:
        return len(self.is_query)

    def name(self, index: int) -> str:
        """Unique relative path without suffix, in ``query/`` or ``gallery/``."""
        queries = len(self.query)
        is_query = index < queries
        return f"query/{self.query.name(index)}" if is_query else f"gallery/{self.gallery.name(index - queries)}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        queries = len(self.query)
        item = self.query[index] if index < queries else self.gallery[index - queries]
        return item | {"is_query": index < queries}


def _check_persons(query: PersonDataset) -> None:
    if nobodies := [index for index, person in enumerate(query.persons) if person <= DISTRACTOR]:
        raise DataError(
            f"{len(nobodies)} queries are of person {query.persons[nobodies[0]]} (the first is "
            f"{query.name(nobodies[0])}), but -1 means junk and 0 a distractor: number persons from 1."
        )


def _check_positives(query: PersonDataset, gallery: PersonDataset) -> None:
    cameras = defaultdict(set)
    for person, camera in zip(gallery.persons, gallery.cameras, strict=True):
        cameras[person].add(camera)
    queries = list(zip(query.persons, query.cameras, strict=True))
    absent = [person for person, _ in queries if person not in cameras]
    unseen = [person for person, camera in queries if cameras.get(person) == {camera}]
    hopeless = len(absent) + len(unseen)
    if hopeless == len(queries):
        raise DataError(why_nothing_is_found(query.persons, query.cameras, gallery.persons, gallery.cameras))
    if hopeless:
        log.warning(
            "%d of %d queries have nothing to find and stay out of the scores: the person of %d is absent from the "
            "gallery (%s), that of %d is seen there by the query's own camera alone (%s).",
            hopeless,
            len(queries),
            len(absent),
            _some(absent),
            len(unseen),
            _some(unseen),
        )


def why_nothing_is_found(
    query_persons: Sequence[int], query_cameras: Sequence[int], persons: Sequence[int], cameras: Sequence[int]
) -> str:
    """Why no query has a positive, in a sentence."""
    known = set(persons)
    absent = [person for person in query_persons if person not in known]
    if len(absent) == len(query_persons):
        why = (
            f"its persons ({_some(persons)}) are others than those of the query ({_some(query_persons)}); take both "
            "from one data set, and from its test part"
        )
    elif len(seen_by := {*query_cameras, *cameras}) == 1:
        why = (
            f"all images are of camera {seen_by.pop()}, and a query's own camera does not count; check the camera "
            "numbers, or bring images of a second camera"
        )
    else:
        why = (
            f"{len(absent)} of {len(query_persons)} queries are of a person who is absent from it ({_some(absent)}), "
            "all others of one who is seen by the query's own camera alone; check person and camera numbers"
        )
    return f"No query has anything to find in the gallery: {why}."


def _check_copies(query: PersonFiles, gallery: PersonFiles) -> None:
    queries = {file.path for file in query.files}
    for group in same_content((*query.files, *gallery.files)):
        asked = [file for file in group if file.path in queries]
        for one in asked:
            for other in group:
                if other.path not in queries and other.person == one.person and other.camera != one.camera:
                    raise DataError(
                        f"{other.path} in the gallery is the query {one.path} itself, said to be of another camera: "
                        "remove one of them."
                    )


def _some(persons: Iterable[int], shown: int = 5) -> str:
    known = sorted({person for person in persons if person > DISTRACTOR})
    more = ", ..." if len(known) > shown else ""
    return (", ".join(map(str, known[:shown])) or "none") + more
