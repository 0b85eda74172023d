"""Blocks of the translators: reflect-padded convolutions, norms of single samples, upsampling, initialisation."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        if upsample:
            self.conv: nn.Conv2d = UpsampleConv(in_channels, out_channels)
        else:
            kind = ReflectConvToFew if stride == 1 and out_channels < 16 else ReflectConv
            self.conv = kind(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, padding_mode="reflect")
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
        return _keep_layout(x + y)


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
        apply = _LayerNorm.apply if torch.is_grad_enabled() else _layer_norm
        return cast(Tensor, apply(x, self.gamma, self.beta))


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    centred, length = _centred(x)
    scale = gamma[:, None, None] / (length / (x[0].numel() - 1) ** 0.5 + 1e-5)
    return torch.addcmul(beta[:, None, None], centred, scale).to(x.dtype)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample minus its mean, in float32 at least, and the length of that; ``torch.std_mean`` is slow on CPU."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean((1, 2, 3), keepdim=True)
    return centred, torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)


class _LayerNorm(torch.autograd.Function):
    """The layer norm, with its gradient in a quarter of the time of autograd's, which also keeps more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, gamma)
        return _layer_norm(x, gamma, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma = ctx.saved_tensors
        centred, length = _centred(x)
        gradient, scale, root = gradient.to(centred.dtype), gamma[:, None, None], (x[0].numel() - 1) ** 0.5
        divisor = length / root + 1e-5
        to_shift = gradient.sum((2, 3), keepdim=True)
        to_scale = (gradient * centred).sum((2, 3), keepdim=True) / divisor
        # y = scale * centred / divisor + shift; the divisor moves by centred / (length * root), the mean by 1 / size.
        along = (scale * to_scale).sum(1, keepdim=True) / (divisor * root * length.clamp_min(1e-30))
        mean = (scale * to_shift).sum(1, keepdim=True) / (divisor * x[0].numel())
        to_x = torch.addcmul(-mean, gradient, scale / divisor).addcmul_(centred, -along)
        return to_x.to(x.dtype), to_scale.sum((0, 2, 3)), to_shift.sum((0, 2, 3))


def instance_norm(x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Normalise each channel of each sample; then ``affine`` [B, 2, C], shift and scale, where given (AdaIN)."""
    if torch.compiler.is_exporting():  # below, the number of samples becomes one of groups, which graphs hold fixed
        normed = F.instance_norm(x)
        return (
            normed
            if affine is None
            else torch.addcmul(affine[:, 0, :, None, None], normed, affine[:, 1, :, None, None])
        )
    shift, scale = (None, None) if affine is None else affine.unbind(1)
    with _without_autocast(x):  # the kernels' sums are float32 whatever the input is
        if x.device.type == "cpu" and _layout(x) == torch.channels_last and x[0].numel() >= 2**16:
            # As batches of one sample: a kernel for this layout, where that of groups copies large samples in and out.
            wide = torch.promote_types(x.dtype, torch.float32)
            norms = [
                F.batch_norm(sample, None, None, _at(scale, i, wide), _at(shift, i, wide), training=True)
                for i, sample in enumerate(x.split(1))
            ]
            return norms[0] if len(norms) == 1 else torch.cat(norms)
        # As groups of one sample: a fused kernel, affine and all, where F.instance_norm takes twice the time on CPU.
        planes = x.reshape(1, -1, *x.shape[2:])
        normed = F.group_norm(planes, planes.shape[1], _at(scale, ..., x.dtype), _at(shift, ..., x.dtype))
    return normed.reshape(x.shape).to(memory_format=_layout(x))


def _at(affine: Tensor | None, samples: Any, dtype: torch.dtype) -> Tensor | None:
    return None if affine is None else affine[samples].to(dtype).flatten()


class ReflectConv(nn.Conv2d):
    """A convolution under reflect padding that keeps its input for the backward pass, not a padded copy as well."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # the plain form, which other runtimes know
            return super().forward(x)
        sides = self._reversed_padding_repeated_twice
        padded = _pad(x, sides, "reflect")
        if not torch.is_grad_enabled():
            return self._convolve(padded)
        address = padded.data_ptr()  # the graph holds on to ``pack``, and so must not find the copy there

        def pack(saved: Tensor) -> Tensor | None:
            return None if saved.data_ptr() == address else saved

        def unpack(kept: Tensor | None) -> Tensor:
            return _pad(x, sides, "reflect") if kept is None else kept

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return self._convolve(padded)

    def _convolve(self, padded: Tensor) -> Tensor:
        return F.conv2d(padded, self.weight, self.bias, self.stride)


class ReflectConvToFew(ReflectConv):
    """The same to so few channels, of which kernels compute 16 at a time, that each row of taps becomes a channel."""

    def _convolve(self, padded: Tensor) -> Tensor:
        few, _, height, _ = self.weight.shape
        rows = F.conv2d(padded, self.weight.transpose(1, 2).flatten(0, 1).unsqueeze(2))
        # Those of one output channel are summed, each as far down as its taps lie.
        placing = torch.eye(few, dtype=rows.dtype, device=rows.device)[:, :, None, None] * torch.eye(height).to(rows)
        return F.conv2d(rows, placing.flatten(1, 2).unsqueeze(3), self.bias)


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
        with _without_autocast(x):
            kernel = (self.weight.flatten(2) @ self.folding).unflatten(2, (4, 3, 3)).transpose(1, 2).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        padded = _pad(x, [1, 1, 1, 1], "replicate")
        y = F.pixel_shuffle(F.conv2d(padded, kernel.to(memory_format=_layout(x)), bias), 2)
        # Padded by replication, the outermost ring saw the edge where reflection shows the pixel beside it.
        edges = _keep_layout(x.view_as(x))
        rows, columns = _ring(edges, self.weight, "reflect"), _ring(edges.mT, self.weight.mT, "replicate").mT
        return cast(Tensor, _AddAtEdges.apply(y, rows.to(y.dtype), columns.to(y.dtype)))


class _AddAtEdges(torch.autograd.Function):
    """Add to the first and last row, then column, in place; autograd's own would copy all of the gradient for each."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        y[:, :, :: y.shape[2] - 1] += rows
        y[..., :: y.shape[3] - 1] += columns
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return gradient, gradient[:, :, :: gradient.shape[2] - 1], gradient[..., :: gradient.shape[3] - 1]


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    # The meta device, on which shapes are rehearsed, has no autocast.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _pad(x: Tensor, sides: list[int], mode: str) -> Tensor:
    with _without_autocast(x):  # on CPU it would copy to float32 and back
        return F.pad(x, sides, mode=mode)


def _ring(x: Tensor, weight: Tensor, padding: str) -> Tensor:
    """What the first and the last output row lack, [B, out, 2, 2W]: the outermost taps, on the wrong row so far."""
    size = x.shape[2]
    shown, seen = x.index_select(2, torch.tensor([1, size - 2, 0, size - 1], device=x.device)).chunk(2, 2)
    lacking = _pad((shown - seen).repeat_interleave(2, -1), [2, 2, 0, 0], padding)
    # The two rows as groups of channels.
    taps = weight[:, :, ::4].permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
    rows = F.conv2d(lacking.transpose(1, 2).flatten(1, 2).unsqueeze(2), taps, groups=2)
    return rows.squeeze(2).unflatten(1, (2, -1)).transpose(1, 2)


def _keep_layout(x: Tensor) -> Tensor:
    """Gradients of ``x`` come in its own layout: sums and norms of two layouts take several times as long."""
    if x.requires_grad and _layout(x) == torch.channels_last:
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return x


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
