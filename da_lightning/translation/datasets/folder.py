"""Folders of images: whole files, or halves of files that hold an aligned pair."""

from pathlib import Path
from typing import Any, Literal

from da_lightning.data.folders import find_images, select_images
from da_lightning.data.images import read_image, upright_sizes
from da_lightning.errors import DataError
from da_lightning.translation.datasets.base import ImageDataset, thinned


class ImageFolder(ImageDataset):
    """The images at any depth of a folder, or those that a list file names.

    Args:
        root: The folder, or the one that holds several.
        folder: Where under ``root``: CycleGAN's ``trainA``, ``testB``, ...
        list_file: Which images to take, one a line, as MUNIT has them; relative to ``root``. ``None`` takes all.
        limit: Take at most so many, evenly spread over the set.

    Raises:
        DataError: No such folder or list, or no images; on reading: a damaged file.
    """

    def __init__(
        self, root: str | Path, folder: str = "", list_file: str | None = None, limit: int | None = None
    ) -> None:
        root = Path(root).expanduser()
        files = find_images(root, folder)
        if list_file is not None:
            files = select_images(files, root / Path(list_file).expanduser(), folder)
        self.files = thinned(list(files.items()), limit)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index][0]

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of all images, from the headers of their files."""
        return set(upright_sizes([path for _, path in self.files]))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": read_image(self.files[index][1])}


class AlignedImages(ImageFolder):
    """One half of each file of pix2pix's aligned sets: ``train/*.jpg`` with both domains side by side.

    Read as they are, with no second JPEG compression. If one domain takes the even files and the other the odd ones, no
    pair is ever seen, as in MUNIT's demo set.

    Args:
        root: The folder that holds ``train`` and ``val``.
        half: ``left`` (edges; the photos of facades and maps) or ``right``.
        folder: Where under ``root``.
        part: ``even`` or ``odd`` takes every other file, ``all`` each.
        list_file, limit: As of :class:`ImageFolder`.
    """

    def __init__(
        self,
        root: str | Path,
        half: Literal["left", "right"],
        folder: str = "train",
        part: Literal["all", "even", "odd"] = "all",
        list_file: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(root, folder, list_file)
        self.half, self.details = half, {"half": half}
        if part != "all":
            self.files = self.files[part == "odd" :: 2]
        self.files = thinned(self.files, limit)

    def sizes(self) -> set[tuple[int, int]]:
        return {(height, width // 2) for height, width in super().sizes()}

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index][1]
        image = read_image(path)
        width = image.shape[-1]
        if width % 2:
            raise DataError(
                f"{path} is {width} pixels wide, but an aligned file has two halves of one width: remove or replace it."
            )
        return {"image": image[..., : width // 2] if self.half == "left" else image[..., width // 2 :]}
