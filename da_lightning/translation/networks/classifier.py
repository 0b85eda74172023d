"""A discriminator that is also a classifier, for adaptation by translation."""

import copy

from torch import Tensor, nn
from torch.nn import functional as F


class ClassifierDiscriminator(nn.Module):
    """Convolutions with two heads on the same features: real or translated, and which class.

    Args:
        num_classes: K.
        width: Channels of the first layer; they double with each of the three further halvings.
        dropout: Share of feature maps dropped before the class head.
    """

    def __init__(self, num_classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = _halving(3, width, kernel=5)
        self.top = nn.Sequential(*(_halving(width * 2**n, width * 2 ** (n + 1)) for n in range(3)))
        self.dropout = nn.Dropout2d(dropout)
        self.judge = nn.Conv2d(8 * width, 1, 1)
        self.classifier = nn.Linear(8 * width, num_classes)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Raw scores [B, 1, H/16, W/16] of RGB [B, 3, H, W], as a list of one scale."""
        return [self.judge(self.maps(image))]

    def maps(self, image: Tensor) -> Tensor:
        """What both heads see, [B, 8 width, H/16, W/16]."""
        return self.top(self.stem(image))

    def features(self, maps: Tensor) -> Tensor:
        """What the classes are told by, [B, 8 width]."""
        return F.adaptive_max_pool2d(self.dropout(maps), 1).flatten(1)

    def classify(self, image: Tensor) -> Tensor:
        """Class logits [B, K]."""
        return self.classifier(self.features(self.maps(image)))

    def for_other_domain(self) -> "ClassifierDiscriminator":
        """One with a stem of its own and all else in common."""
        other = copy.copy(self)
        other._modules = {**self._modules, "stem": copy.deepcopy(self.stem)}
        return other


def _halving(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.LeakyReLU(0.1, inplace=True),  # of the largest is the largest: the same at a quarter of the work
    )
