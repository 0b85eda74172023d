"""What follows the pooled features."""

from torch import nn


class Embedding(nn.Sequential):
    """Linear layer (He, fan-out) and batch norm: [B, inputs] to [B, size], before any non-linearity."""

    def __init__(self, inputs: int, size: int) -> None:
        linear = nn.Linear(inputs, size)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out")
        nn.init.zeros_(linear.bias)
        super().__init__(linear, nn.BatchNorm1d(size))


class PersonClassifier(nn.Linear):
    """Logits of persons, near zero at the start."""

    def __init__(self, inputs: int, persons: int, bias: bool = True) -> None:
        super().__init__(inputs, persons, bias)
        nn.init.normal_(self.weight, std=0.001)
        if bias:
            nn.init.zeros_(self.bias)
