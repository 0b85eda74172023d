"""Files to predict on: found, named, grouped by size; their labels go where their predictions go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from da_lightning.data.folders import check_pairs, find_images, listed_file, read_list
from da_lightning.data.images import check_depth, open_image, upright_size
from da_lightning.data.labels import holds_ids, resized_ids
from da_lightning.errors import DataError, UserError
from da_lightning.files import copy_file, write_bytes, write_text
from da_lightning.reading import kind_of


@dataclass(frozen=True)
class Input:
    """An image file, and its label file if it has one.

    Attributes:
        name: Unique among the inputs.
        place, label_place: Where in a folder of the same layout such an image and its label lie, without suffix.
    """

    image: Path
    name: str
    place: str
    label: Path | None = None
    label_place: str = ""


def find_inputs(source: Path, list_file: str | None = None, labels: Path | None = None) -> list[Input]:
    """Find the images at ``source``.

    Args:
        source: An image; a folder of images; a folder with ``images`` and ``labels`` in it; or the folder of a list.
        list_file: Text file with ``image label`` or ``image`` lines; both are relative to ``source``, as it is itself.
        labels: A folder of label files with the names of the images; their places are ``images/x`` and ``labels/x``.

    Raises:
        DataError: Nothing found, a line that names no file under ``source``, or an image without its label.
    """
    if list_file is not None:
        if labels is not None:
            raise UserError("list_file and labels exclude each other: name the label in the second column of the list.")
        return _listed(source, list_file)
    images = "images" if labels is None and (source / "images").is_dir() and (source / "labels").is_dir() else ""
    if "archive" in (kind := kind_of(source)):
        raise DataError(f"{source} is {kind}: unpack it and give the folder that comes out.")
    found = {source.stem: source} if source.is_file() else find_images(source, images)
    if labels is None and not images:
        return [Input(path, name, name) for name, path in found.items()]
    label_files = find_images(labels or source / "labels")
    check_pairs(found, {name: path for name, path in label_files.items() if name in found})
    return [Input(path, name, f"images/{name}", label_files[name], f"labels/{name}") for name, path in found.items()]


def _listed(root: Path, list_file: str) -> list[Input]:
    inputs: dict[str, Input] = {}
    for place, columns in read_list(root / Path(list_file).expanduser()):
        image, *labels = (listed_file(root, column, place) for column in columns[:2])
        name = str(image.with_suffix(""))
        if name in inputs:
            raise DataError(f"{place} names {image} a second time: name each image once.")
        of_label = (root / labels[0], str(labels[0].with_suffix(""))) if labels else ()
        inputs[name] = Input(root / image, name, name, *of_label)
    return list(inputs.values())


def batches(inputs: Sequence[Input], batch_size: int, are_resized: bool = False) -> Iterator[list[int]]:
    """Positions of inputs whose images are of one size, ``batch_size`` of them at most; every file is looked at first.

    Args:
        are_resized: Labels will be resized with their images, and so must be of ids.

    Raises:
        DataError: A file that is no image of 8 bits a channel, a label of another size than its image, or not of ids.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for position, item in enumerate(inputs):
        with open_image(item.image) as image:
            check_depth(item.image, image.mode)
            size = upright_size(image)
        if item.label:
            _check_label(item.label, item.image, size, are_resized)
        sizes.setdefault(size, []).append(position)
    for positions in sizes.values():
        yield from (positions[i : i + batch_size] for i in range(0, len(positions), batch_size))


def _check_label(label: Path, path: Path, size: tuple[int, int], is_resized: bool) -> None:
    with open_image(label) as image:
        if image.size != size:
            raise DataError(
                f"{label} is {image.size[0]}x{image.size[1]}, but {path}, upright as its EXIF orientation says, is "
                f"{size[0]}x{size[1]}: give labels of the size of their images."
            )
        if is_resized and not holds_ids(image):
            raise DataError(
                f"{label} has mode {image.mode}, not one channel of ids, and cannot be resized with its image: "
                "leave out image_size."
            )


def with_shorter_side(image: Tensor, side: int | None) -> Tensor:
    """``image`` uint8 [3, H, W] resized, bicubic, or as it is if ``side`` is ``None``."""
    return image if side is None else resize(image, [side], InterpolationMode.BICUBIC, antialias=True)


def copy_label(label: Path, to: Path, size: tuple[int, int] | None = None) -> None:
    """Copy a label file; for an image of another ``size`` (H, W) each pixel takes the nearest id."""
    if size is None:
        copy_file(label, to)
        return
    write_bytes(to, resized_ids(label, size))


def write_list(file: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write a list file: a line a row, columns separated by tabs."""
    write_text(file, "".join("\t".join(row) + "\n" for row in rows))
