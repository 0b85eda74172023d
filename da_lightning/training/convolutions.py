"""Convolutions that more than one family uses."""

from torch import Tensor, nn
from torch.nn import functional as F


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride: the same weights and the same result, from the pixels that it reads alone.

    torch 2.14 corrupts memory in the backward pass of ``nn.Conv2d(n, ..., 1, stride=2)`` on channels-last CPU tensors
    of few channels: below 8, and with AVX-512 also of 9 to 15.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)
