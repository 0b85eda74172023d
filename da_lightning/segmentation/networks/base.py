"""The contract of a segmentation network."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from da_lightning.networks.base import Network
from da_lightning.segmentation.networks.sliding import Windows, slide


class Level(NamedTuple):
    """One output of a network.

    Args:
        logits: [B, K, h, w], at the level's own stride.
        region: Top, bottom, left and right pixel of the image that they cover; ``None``: all of it.
        weight: Weight of the loss on it; ``None``: the method's own.
    """

    logits: Tensor
    region: tuple[int, int, int, int] | None = None
    weight: float | None = None


class SegmentationNetwork(Network):
    """Takes RGB in [0, 1], [B, 3, H, W], and normalises by itself. Logits are upsampled to the labels' size.

    A subclass has ``features`` and ``decode``, says ``strides`` and ``channels``, and takes ``num_classes``.
    """

    strides: tuple[int, ...]
    """The stride of each map, from fine to coarse."""
    channels: tuple[int, ...]
    """The number of channels of each map."""
    features: Callable[[Tensor], tuple[Tensor, ...]]
    """Image to pyramid: maps [B, C, h, w] from fine to coarse; the last one is what the backbone ends with."""
    export_multiple = 1
    """Sides of images are multiples of this where an exported graph leaves them open."""
    is_sized = False
    """Whether an exported graph is for images of one size: its padding, say, is computed from them."""
    windows: Windows | None = None
    """How whole images are seen in :meth:`infer`; ``None``: at once."""

    @abstractmethod
    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        """Levels, the main one first, then the auxiliary one if any."""

    def forward(self, image: Tensor) -> tuple[Level, ...]:
        """The levels of ``image``, as losses take them."""
        return self.decode(self.features(image))

    def infer(self, image: Tensor) -> Tensor:
        """Main logits [B, K, h, w], at the network's stride or, by windows, at the image's size; changes no mode.

        Everything but training calls this, and upsamples once. An image smaller than a window is seen whole: a crop.
        """
        if self.windows is None or not self.windows.fit(image):
            return self(image)[0].logits
        return slide(self, image, self.windows)

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All trainable parameters, each once, as ``backbone`` and ``heads`` (which learn faster)."""


NetworkOptions = Mapping[str, Any] | SegmentationNetwork
"""``{"_target_": a class derived from SegmentationNetwork, ...}``, which the method builds."""
