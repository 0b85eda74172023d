"""The output-space discriminator of AdaptSegNet (Tsai et al., CVPR 2018)."""

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from da_lightning.errors import UserError


class OutputDiscriminator(nn.Module):
    """Judges patches of 94 pixels: softmax map at the input's size [B,K,H,W] -> raw logits [B,1,H//32,W//32].

    Raises:
        UserError: The map has a side below 32 pixels.
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width * 2, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(width * 2, width * 4, 4, stride=2, padding=1)
        self.conv4 = nn.Conv2d(width * 4, width * 8, 4, stride=2, padding=1)
        self.classifier = nn.Conv2d(width * 8, 1, 4, stride=2, padding=1)

    def forward(self, probabilities: Tensor) -> Tensor:
        height, width = probabilities.shape[-2:]
        if min(height, width) < 32:
            raise UserError(
                f"Expected at least 32x32 pixels for the discriminator, but found {height}x{width}; enlarge the images."
            )
        maps = probabilities
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            maps = leaky_relu(conv(maps), 0.2)
        return self.classifier(maps)
