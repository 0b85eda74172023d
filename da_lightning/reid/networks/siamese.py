"""SPGAN's embedding, in which images are held to be the same person or not (Deng et al., CVPR 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.errors import UserError


class SiaNet(nn.Module):
    """Images [B, 3, H, W] to embeddings [B, embedding] of length 1, float32; names are those of the PyTorch code.

    A block is a convolution that halves the sides and a pooling that halves them again. Poolings that later blocks of
    small images could not follow are left out.

    Args:
        image_size: (H, W).
        blocks: 3 in the PyTorch codes; 4 in the paper and the TensorFlow code, for 256x256.
        width: Channels of the first block; they double with each.
        hidden: Features before the embedding; ``None`` has no layer between (paper).
        embedding: 64 in the codes, 128 in the paper.

    Raises:
        UserError: Images too small for so many blocks; in use: of another size.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        blocks: int = 3,
        width: int = 64,
        hidden: int | None = 128,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.image_size = height, breadth = tuple(image_size)
        if min(image_size) < 2**blocks:
            raise UserError(
                f"Expected images of at least {2**blocks}x{2**blocks} pixels for method.siamese_blocks={blocks}, but "
                f"found {height}x{breadth}: enlarge them, or take fewer blocks."
            )
        layers: list[nn.Sequential] = []
        for block in range(blocks):
            height, breadth = height // 2, breadth // 2
            is_pooled = min(height, breadth) // 2 >= 2 ** (blocks - 1 - block)
            if is_pooled:
                height, breadth = height // 2, breadth // 2
            channels = (width * 2 ** (block - 1) if block else 3), width * 2**block
            layers.append(
                nn.Sequential(
                    nn.Conv2d(*channels, 4, stride=2, padding=1),
                    nn.LeakyReLU(0.2),
                    nn.MaxPool2d(2) if is_pooled else nn.Identity(),
                )
            )
        self.conv = nn.Sequential(*layers[0], *layers[1:])
        self.fc1 = nn.Linear(width * 2 ** (blocks - 1) * height * breadth, hidden or embedding, bias=False)
        self.fc2 = nn.Linear(hidden, embedding, bias=False) if hidden else None

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != self.image_size:
            raise UserError(
                f"Expected images of {self.image_size} for the SiaNet, but found {tuple(image.shape[-2:])}: set "
                "method.image_size=null, or resize the images."
            )
        features = self.fc1(self.conv(image).flatten(1))
        if self.fc2 is not None:
            features = self.fc2(F.dropout(F.leaky_relu(features, 0.2), 0.5, self.training))
        return F.normalize(features.float(), dim=1)


def attraction(one: Tensor, other: Tensor) -> Tensor:
    """Contrastive loss of pairs of one person: mean square distance of embeddings [B, D]."""
    return (one - other).square().sum(1).mean()


def repulsion(one: Tensor, other: Tensor, margin: float) -> Tensor:
    """Contrastive loss of pairs of two persons: mean square of what their distance lacks of ``margin``."""
    distance = torch.linalg.vector_norm(one - other, dim=1)
    return (margin - distance).clamp(min=0).square().mean()
