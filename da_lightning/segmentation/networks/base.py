"""The contract of a segmentation network."""

from torch import Tensor, nn

from da_lightning.training.exportable import Normalisation


class SegmentationNetwork(nn.Module):
    """Takes RGB in [0, 1], [B, 3, H, W], and normalises by itself; labels are whatever the logits are upsampled to."""

    normalisation: Normalisation | None = None
    """By which mean and deviation, for those who want to know."""
    export_multiple = 1
    """Sides of images are multiples of this where an exported graph leaves them open."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K, h, w] at the network's own stride, the main level first, then the auxiliary one if any."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All trainable parameters, each once, as ``backbone`` and ``heads`` (which learn faster)."""
        raise NotImplementedError
