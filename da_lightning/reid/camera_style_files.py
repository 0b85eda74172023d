"""Folders of camera-style images: each image of a set as its other cameras would have seen it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from da_lightning.errors import DataError
from da_lightning.reid.datasets.files import made_files


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
        wanted = [
            (f"{name}_fake_{own}to{other}", f"{name}_fake_{other}")
            for name, own in zip(names, cameras, strict=True)
            for other in network
            if other != own
        ]
        found = iter(made_files(folder, wanted, "camera-style images", "data.camera_style"))
        self._files = [[None if other == own else next(found) for other in network] for own in cameras]

    def files(self, index: int) -> list[Path | None]:
        """Image ``index`` in the style of each camera, in their order; ``None``: its own."""
        return self._files[index]

    def drawn(self, index: int) -> Path | None:
        """A file of image ``index`` in the style of a camera drawn from torch's global generator; ``None``: its own."""
        files = self._files[index]
        return files[int(torch.randint(len(files), ()))]
