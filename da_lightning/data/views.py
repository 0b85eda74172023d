"""Data sets as loaders see them: images resized, augmented by seed or as they are, and scaled to floats."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from da_lightning.arguments import Size
from da_lightning.data.samplers import Draw
from da_lightning.data.source_target import Sizes

Item = dict[str, Any]
Interpolation = Literal["bilinear", "bicubic"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch's global CPU generator starts from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs, too
        yield


class Resize:
    """Antialiased resizing.

    Args:
        size: (H, W) stretches, an integer is the shorter side, ``None`` leaves images as they are.
        interpolation: How.
    """

    def __init__(self, size: int | Size | list[int] | None, interpolation: Interpolation) -> None:
        self.size = [size] if isinstance(size, int) else size and list(size)
        self.interpolation = InterpolationMode(interpolation)

    def __call__(self, image: Tensor) -> Tensor:
        return TF.resize(image, self.size, self.interpolation, antialias=True) if self.size else image

    def sizes(self, dataset: Any) -> set[tuple[int, int]]:
        """(H, W) of the images of ``dataset`` after resizing; empty where it does not say.

        Raises:
            DataError: A damaged image.
        """
        if self.size and len(self.size) == 2:
            return {(self.size[0], self.size[1])}
        known = dataset.sizes() if isinstance(dataset, Sizes) else set()
        return {self._resized(*size) for size in known}

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not self.size:
            return height, width
        short, long = sorted((height, width))
        scaled = int(self.size[0] * long / short)  # as torchvision rounds
        return (self.size[0], scaled) if height <= width else (scaled, self.size[0])


class View(Dataset[Item]):
    """A data set whose items have an ``image`` uint8 [3, H, W], as a loader sees it; images are float32 in [0, 1]."""

    def __init__(self, dataset: Any, resize: Resize) -> None:
        self.dataset, self.resize = dataset, resize

    def __len__(self) -> int:
        return len(self.dataset)

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of what the loader sees; empty where the data set does not say."""
        return self.resize.sizes(self.dataset)

    def as_float(self, image: Tensor) -> Tensor:
        """``image`` of 0 to 255 in the range that networks take."""
        return image.float() / 255


class TrainingView(View):
    """Resized and augmented images, addressed by (index, augmentation seed).

    Args:
        augment: Draws from torch's global generator.
        cache: Keep what has been read in memory.
    """

    def __init__(self, dataset: Any, resize: Resize, augment: Any, cache: bool = False) -> None:
        super().__init__(dataset, resize)
        self.augment = augment
        self._cache: dict[Hashable, Any] | None = {} if cache else None

    def __getitem__(self, draw: Draw) -> Item:
        index, seed = draw
        with seeded(seed):
            return self.augmented(index)

    def augmented(self, index: int) -> Item:
        """Item ``index`` under the present draws; what else the set's items have is handed on."""
        item = self.item(index)
        return item | {"image": self.as_float(self.augment(item["image"])), "index": index}

    def item(self, index: int) -> Item:
        """The set's item ``index``, resized only."""
        return self.cached(index, lambda: self.resized(self.dataset[index]))

    def resized(self, item: Item) -> Item:
        return item | {"image": self.resize(item["image"])}

    def cached(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """What ``read`` returns, from memory the next time where there is a cache."""
        if self._cache is None:
            return read()
        if key not in self._cache:
            self._cache[key] = read()
        return self._cache[key]

    def unaugmented(self) -> Dataset[Item]:
        """The same images in order, resized only and without any label: what pseudo labels are made from."""
        return _Unaugmented(self)


class _Unaugmented(View):
    def __init__(self, view: TrainingView) -> None:
        super().__init__(view.dataset, view.resize)
        self.view = view

    def __getitem__(self, index: int) -> Item:
        return {"image": self.view.as_float(self.view.item(index)["image"]), "index": index}


class EvaluationView(View):
    """Resized images, addressed by index; what else the set's items have is handed on."""

    def __getitem__(self, index: int) -> Item:
        item = self.dataset[index]
        return item | {"image": self.as_float(self.resize(item["image"])), "index": index}
