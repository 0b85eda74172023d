"""Sets whose list files say who was seen by which camera."""

import csv
import io
from pathlib import Path
from typing import Literal

from da_lightning.data.folders import read_list
from da_lightning.errors import DataError
from da_lightning.reading import EmptyFile, UnreadableFile, read_text
from da_lightning.reid.datasets.files import PersonFiles, listed_person

_LONGEST = 2**28  # bytes of a manifest
_SPLITS = {  # list files, folder, images
    "train": (("list_train.txt",), "train", 30248),
    "val": (("list_val.txt",), "train", 2373),
    "trainval": (("list_train.txt", "list_val.txt"), "train", 32621),
    "query": (("list_query.txt",), "test", 11659),
    "gallery": (("list_gallery.txt",), "test", 82161),
}


class MSMT17(PersonFiles):
    """MSMT17: ``list_train.txt`` with lines ``0000/0000_000_01_0303morning_0015_0.jpg 0``, camera 1, the first person.

    Persons are numbered from 1, as 0 would be a distractor. Given out by its authors on request.

    Args:
        root: The folder that holds the list files.
        split: ``trainval`` is what papers train on; ``query`` and ``gallery`` are of the test persons.
        labelled: Whether items have persons.
        version: 1, or 2, in which faces are blurred (``mask_train_v2``, ``mask_test_v2``); results differ.

    Raises:
        DataError: A missing list or image, a line of another form, or an image that is named twice.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val", "trainval", "query", "gallery"] = "trainval",
        labelled: bool = True,
        version: Literal[1, 2] = 1,
    ) -> None:
        root = Path(root).expanduser()
        lists, folder, published = _SPLITS[split]
        folders = [folder, f"mask_{folder}_v2"]
        top, other = root / folders[version - 1], root / folders[2 - version]
        rows = [row for list_file in lists for row in read_list(root / list_file)]
        if not top.is_dir() and other.is_dir():
            raise DataError(f"{root} has no folder {top.name} but {other.name}: set version={3 - version}.")
        files = []
        for place, columns in rows:
            parts = Path(columns[0]).name.split("_")
            if len(columns) != 2 or len(parts) < 4:
                raise DataError(
                    f"{place} is not like '0000/0000_000_01_0303morning_0015_0.jpg 0': take MSMT17's lists."
                )
            files.append(listed_person(top, place, columns[0], parts[2], columns[1] if labelled else None, first=0))
        super().__init__(files, labelled, published)


class UnrealPerson(PersonFiles):
    """UnrealPerson: a list of path, person and camera; for training alone. Persons are numbered from 1.

    Args:
        root: The folder that holds the list file and ``unreal_v1.1``, ...
        list_file: Its name; paths in it are relative to ``root``.
        labelled: Whether items have persons.

    Raises:
        DataError: A missing list or image, a line of another form, or an image that is named twice.
    """

    def __init__(self, root: str | Path, list_file: str = "list_unreal_train.txt", labelled: bool = True) -> None:
        root = Path(root).expanduser()
        files = []
        for place, columns in read_list(root / list_file):
            if len(columns) != 3:
                raise DataError(f"{place} has {len(columns)} columns: write path, person and camera.")
            path, person, camera = columns
            files.append(listed_person(root, place, path, camera, person if labelled else None, first=0))
        super().__init__(files, labelled)


class PersonManifest(PersonFiles):
    """Anyone's own images by a CSV file with a header: ``path,id,camera``, and ``split`` if one file serves several.

    Args:
        root: The folder that paths are relative to.
        manifest: The CSV file, relative to ``root``. Of persons -1 is junk and 0 a distractor, as in Market-1501.
        split: Take the rows with this ``split``; ``None`` takes all.
        labelled: Whether items have persons; if not, ``id`` is never looked for.

    Raises:
        DataError: A missing manifest, column or image, no rows, a number that is none, an image that is named twice.
    """

    def __init__(
        self,
        root: str | Path,
        manifest: str = "manifest.csv",
        split: str | None = None,
        labelled: bool = True,
    ) -> None:
        root = Path(root).expanduser()
        path = root / Path(manifest).expanduser()
        wanted = ["path", "camera", *(["id"] if labelled else []), *(["split"] if split is not None else [])]
        try:
            reader = csv.DictReader(io.StringIO(read_text(path, _LONGEST), newline=""))
            rows = [(f"Line {reader.line_num} of {path}", row) for row in reader]
        except EmptyFile:
            raise DataError(f"The manifest {path} is empty: write path,id,camera and a line an image.") from None
        except (UnreadableFile, csv.Error) as error:
            raise DataError(
                f"The manifest {path} cannot be read as CSV ({error}): set manifest to such a file."
            ) from None
        columns = reader.fieldnames or []
        if missing := [column for column in wanted if column not in columns]:
            raise DataError(
                f"{path} has no column {', no column '.join(missing)} but {', '.join(columns)}: give it a header of "
                "path, id, camera and perhaps split."
            )
        files = []
        for place, row in rows:
            if split is None or row["split"] == split:
                if any(row[column] is None for column in wanted):
                    raise DataError(f"{place} has fewer columns than the header: give it {', '.join(columns)}.")
                files.append(listed_person(root, place, row["path"], row["camera"], row["id"] if labelled else None))
        if not files:
            found = sorted({str(row["split"]) for _, row in rows}) if split is not None else []
            splits = f" of split {split}, only of {', '.join(found) or 'none'}" if split is not None else ""
            raise DataError(f"{path} names no image{splits}: complete it, or set split to one that it has.")
        super().__init__(files, labelled)
