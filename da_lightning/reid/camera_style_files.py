"""Folders of camera-style images: each image of a set as its other cameras would have seen it."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from da_lightning.data.folders import find_images
from da_lightning.errors import DataError
from da_lightning.reid.datasets.files import check_whole

_NAME = re.compile(r"(?P<name>.*)_fake_(?:(?P<own>\d+)to)?(?P<camera>\d+)")


class CameraStyles:
    """The published layouts: ``<name>_fake_<camera>to<other>.jpg`` (CycleGAN) or ``<name>_fake_<other>.jpg`` (StarGAN).

    Args:
        folder: Where they lie, at any depth.
        names: Of the real images.
        cameras: Their cameras, numbered as in the file names.

    Raises:
        DataError: One camera only, no such folder, or an image and camera without a file.
    """

    def __init__(self, folder: str | Path, names: Sequence[str], cameras: Sequence[int]) -> None:
        folder = Path(folder).expanduser()
        network = sorted(set(cameras))
        if len(network) == 1:
            raise DataError(
                f"All target images are of camera {network[0]}, so there is no other camera's style: check the camera "
                "numbers, or do without camera styles."
            )
        images = find_images(folder)
        found = {}
        for place, path in images.items():
            if match := _NAME.fullmatch(place):
                found[match["name"], match["own"] and int(match["own"]), int(match["camera"])] = path
        self._files: list[list[Path | None]] = []
        missing = []
        for name, own in zip(names, cameras, strict=True):
            files = {other: found.get((name, own, other), found.get((name, None, other))) for other in network}
            files[own] = None
            missing += [(name, own, other) for other, file in files.items() if file is None and other != own]
            self._files.append(list(files.values()))
        if missing:
            name, own, other = missing[0]
            raise DataError(
                f"{folder} lacks {len(missing)} of {len(names) * (len(network) - 1)} camera-style images, the first is "
                f"{name}_fake_{own}to{other} or {name}_fake_{other} (of {len(images)} files found the first is "
                f"{next(iter(images))}): let data.camera_style be the folder made from this target, or complete it."
            )

        files_of_all = [file for files in self._files for file in files if file is not None]
        check_whole(files_of_all, folder, "camera-style images", "data.camera_style")

    def files(self, index: int) -> list[Path | None]:
        """Image ``index`` in the style of each camera, in their order; ``None``: its own."""
        return self._files[index]

    def drawn(self, index: int) -> Path | None:
        """A file of image ``index`` in the style of a camera drawn from torch's global generator; ``None``: its own."""
        files = self._files[index]
        return files[int(torch.randint(len(files), ()))]
