"""Blocks of the translators: reflect-padded convolutions, norms of single samples, upsampling, initialisation."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["none", "instance", "layer"]
Activation = Literal["none", "relu", "leaky_relu", "tanh"]


class ConvBlock(nn.Module):
    """Reflect padding, convolution with bias, norm, activation: [B, C, H, W] -> [B, out, ...].

    Args:
        norm: ``instance`` (see :func:`instance_norm`), ``layer`` (:class:`LayerNorm`) or ``none``.
        slope: Of ``leaky_relu``.
        upsample: Doubles height and width before the convolution, whose kernel is then 5 (:class:`UpsampleConv`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        norm: Norm = "none",
        activation: Activation = "relu",
        slope: float = 0.2,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.conv = (
            UpsampleConv(in_channels, out_channels)
            if upsample
            else ReflectConv(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, padding_mode="reflect")
        )
        self.norm = LayerNorm(out_channels) if norm == "layer" else None
        self.is_instance_normed = norm == "instance"
        if self.is_instance_normed and self.conv.bias is not None:
            # The norm takes this bias out again; Adam would turn the rounding that is its gradient into full steps.
            self.conv.bias.register_hook(torch.zeros_like)
        self.activation = {
            "none": nn.Identity(),
            "relu": nn.ReLU(inplace=True),
            "leaky_relu": nn.LeakyReLU(slope, inplace=True),
            "tanh": nn.Tanh(),
        }[activation]

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine`` [B, 2, out]: shift and scale of each sample after an instance norm (AdaIN), in this order."""
        x = self.conv(x)
        if self.is_instance_normed:
            x = instance_norm(x, affine)
        elif self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


class ResidualBlock(nn.Module):
    """Two instance-normed 3x3 convolutions around a skip connection; nothing follows the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvBlock(width, width, 3, norm="instance", activation=activation) for activation in ("relu", "none")
        )

    def forward(self, x: Tensor, affine: Tensor | None = None) -> Tensor:
        """``affine`` [B, 2, 2, width]: that of each convolution's norm."""
        y = x
        for number, layer in enumerate(self.layers):
            y = layer(y, None if affine is None else affine[:, number])
        return x + y


class LayerNorm(nn.Module):
    """MUNIT's layer norm, over all of a sample, with a scale and a shift a channel.

    Not ``nn.LayerNorm``: the deviation is unbiased, 1e-5 is added to it (not under the root), and the scale begins
    uniform in 0..1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        sample = (1, 2, 3)
        # At least float32; torch.std_mean is several times slower on CPU, and NaN backwards where it is 0.
        centred = x - x.mean(sample, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        deviation = torch.linalg.vector_norm(centred, dim=sample, keepdim=True) / (x[0].numel() - 1) ** 0.5
        scale = self.gamma[:, None, None] / (deviation + 1e-5)
        return torch.addcmul(self.beta[:, None, None], centred, scale).to(x.dtype)


def instance_norm(x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Normalise each channel of each sample; then ``affine`` [B, 2, C], shift and scale, where given (AdaIN)."""
    if torch.compiler.is_exporting():  # below, the number of samples becomes one of groups, which graphs hold fixed
        normed = F.instance_norm(x)
        return (
            normed
            if affine is None
            else torch.addcmul(affine[:, 0, :, None, None], normed, affine[:, 1, :, None, None])
        )
    # As groups of one sample: a fused kernel, affine and all, where F.instance_norm takes twice the time on CPU.
    planes = x.reshape(1, -1, *x.shape[2:])
    shift, scale = (None, None) if affine is None else affine.unbind(1)
    with torch.autocast(x.device.type, enabled=False):  # the kernel's sums are float32 whatever the input is
        normed = F.group_norm(
            planes,
            planes.shape[1],
            None if scale is None else scale.to(x.dtype).flatten(),
            None if shift is None else shift.to(x.dtype).flatten(),
        )
    return normed.reshape(x.shape).to(memory_format=_layout(x))


class ReflectConv(nn.Conv2d):
    """A convolution under reflect padding that keeps its input for the backward pass, not a padded copy as well."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        sides = self._reversed_padding_repeated_twice
        padded = F.pad(x, sides, mode="reflect")
        address = padded.data_ptr()  # the graph holds on to ``pack``, and so must not find the copy there

        def pack(saved: Tensor) -> Tensor | None:
            return None if saved.data_ptr() == address else saved

        def unpack(kept: Tensor | None) -> Tensor:
            return F.pad(x, sides, mode="reflect") if kept is None else kept

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return F.conv2d(padded, self.weight, self.bias, self.stride)


class UpsampleConv(nn.Conv2d):
    """Nearest upsampling by two, reflect padding and a 5x5 convolution: [B, C, H, W] -> [B, out, 2H, 2W].

    Equal up to rounding, at 9/25 of the multiplications: taps that fall on the same low-resolution pixel are summed
    first, which leaves a 3x3 kernel for each of the four phases.
    """

    folding: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 5)
        # Which of the five taps fall on the pixel before, on and after: for even outputs, for odd ones.
        even, odd = (
            [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
            [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
        )
        taps = torch.tensor([even, odd], dtype=torch.float32)
        folding = torch.einsum("pay,qbx->yxpqab", taps, taps).reshape(25, 36)
        self.register_buffer("folding", folding, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # the plain form, whose sizes may be open and which other runtimes know
            doubled = F.interpolate(x, scale_factor=2, mode="nearest")
            return F.conv2d(F.pad(doubled, (2, 2, 2, 2), mode="reflect"), self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            kernel = (self.weight.flatten(2) @ self.folding).unflatten(2, (4, 3, 3)).transpose(1, 2).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        y = F.pixel_shuffle(F.conv2d(padded, kernel.to(memory_format=_layout(x)), bias), 2)
        # Padded by replication, the outermost ring saw the edge where reflection shows the pixel beside it.
        rows, columns = (torch.arange(0, size, size - 1, device=y.device) for size in y.shape[2:])
        y.index_add_(2, rows, _ring(x, self.weight, "reflect").to(y.dtype))
        return y.index_add_(3, columns, _ring(x.mT, self.weight.mT, "replicate").mT.to(y.dtype))


def _ring(x: Tensor, weight: Tensor, padding: str) -> Tensor:
    """What the first and the last output row lack, [B, out, 2, 2W]: the outermost taps, on the wrong row so far."""
    lacking = torch.stack((x[:, :, 1] - x[:, :, 0], x[:, :, -2] - x[:, :, -1]), 2).repeat_interleave(2, -1)
    windows = F.pad(lacking, (2, 2, 0, 0), mode=padding).unfold(3, 5, 1)
    return torch.einsum("bcrnk,ocrk->born", windows, weight[:, :, ::4])


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def initialise(network: nn.Module, init: Literal["kaiming", "normal"]) -> None:
    """Draw all convolution and linear weights, ``kaiming`` or N(0, 0.02); biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if init == "kaiming":
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Additive(nn.Module):
    """A generator that says what to add to an image: it begins as the identity, and colours need not be made anew.

    Args:
        generator: Its last convolution is set to zero.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        last = [module for module in generator.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)][-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor, *domain: Tensor) -> Tensor:
        return image + self.generator(image, *domain)
