"""The same functions as in :mod:`.blocks`, equal up to rounding, for CPU tensors: less time, less memory.

Layouts matter most here: a sum or a norm of tensors in two memory formats takes several times as long as of one.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SWITCH = "DA_FAST_BLOCKS"
"""The environment variable that :func:`faster_on_cpu` reads."""

P = ParamSpec("P")
Function = Callable[Concatenate[Tensor, P], Tensor]


def faster_on_cpu(fast: Function[P]) -> Callable[[Function[P]], Function[P]]:
    """The switch: decorates a plain function, whose place ``fast`` takes where it is on.

    It is on where the first argument is a CPU tensor: values and gradients are equal up to rounding. It is off on every
    other device, and while a network is exported: files hold the plain operations. ``DA_FAST_BLOCKS=0`` in the
    environment turns it off on the CPU, too; the variable is read at each call.
    """

    def decorate(plain: Function[P]) -> Function[P]:
        @wraps(plain)
        def function(x: Tensor, *args: P.args, **kwargs: P.kwargs) -> Tensor:
            is_on = x.device.type == "cpu" and not torch.compiler.is_exporting() and os.environ.get(SWITCH, "1") != "0"
            return (fast if is_on else plain)(x, *args, **kwargs)

        return function

    return decorate


# -- norms -------------------------------------------------------------------------------------------------------------


def instance_norm(x: Tensor, affine: Tensor | None = None) -> Tensor:
    """Kernels that take a sample's or all planes at once, affine and all; ``F.instance_norm`` takes twice the time."""
    shift, scale = (None, None) if affine is None else affine.unbind(1)
    with _without_autocast():  # the kernels' sums are float32 whatever the input is
        if _layout(x) == torch.channels_last and x[0].numel() >= 2**16:
            # As batches of one sample: a kernel for this layout, where that of groups copies large samples in and out.
            wide = torch.promote_types(x.dtype, torch.float32)
            norms = [
                F.batch_norm(sample, None, None, _at(scale, i, wide), _at(shift, i, wide), training=True)
                for i, sample in enumerate(x.split(1))
            ]
            return norms[0] if len(norms) == 1 else torch.cat(norms)
        # As groups of one sample.
        planes = x.reshape(1, -1, *x.shape[2:])
        normed = F.group_norm(planes, planes.shape[1], _at(scale, ..., x.dtype), _at(shift, ..., x.dtype))
    return normed.reshape(x.shape).to(memory_format=_layout(x))


def _at(affine: Tensor | None, samples: Any, dtype: torch.dtype) -> Tensor | None:
    return None if affine is None else affine[samples].to(dtype).flatten()


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Its gradient takes a quarter of the time of autograd's, which also keeps more."""
    return cast(Tensor, _LayerNorm.apply(x, gamma, beta))


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample minus its mean, in float32 at least, and the length of that; ``torch.std_mean`` is slow on CPU."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean((1, 2, 3), keepdim=True)
    return centred, torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, gamma)
        centred, length = _centred(x)
        scale = gamma[:, None, None] / (length / (x[0].numel() - 1) ** 0.5 + 1e-5)
        return torch.addcmul(beta[:, None, None], centred, scale).to(x.dtype)

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


# -- convolutions ------------------------------------------------------------------------------------------------------


def reflect_conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], sides: list[int]) -> Tensor:
    """Keeps its input for the backward pass, not a padded copy as well."""
    convolve = _conv_to_few if tuple(stride) == (1, 1) and len(weight) < 16 else F.conv2d
    padded = _pad(x, sides, "reflect")
    address = padded.data_ptr()  # the graph holds on to ``pack``, and so must not find the copy there

    def pack(saved: Tensor) -> Tensor | None:
        return None if saved.data_ptr() == address else saved

    def unpack(kept: Tensor | None) -> Tensor:
        return _pad(x, sides, "reflect") if kept is None else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return convolve(padded, weight, bias, stride)


def _conv_to_few(padded: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]) -> Tensor:
    """To so few channels, of which kernels compute 16 at a time, that each row of taps becomes a channel."""
    few, _, height, _ = weight.shape
    rows = F.conv2d(padded, weight.transpose(1, 2).flatten(0, 1).unsqueeze(2))
    # Those of one output channel are summed, each as far down as its taps lie.
    placing = torch.eye(few, dtype=rows.dtype, device=rows.device)[:, :, None, None] * torch.eye(height).to(rows)
    return F.conv2d(rows, placing.flatten(1, 2).unsqueeze(3), bias)


@torch.inference_mode(False)  # whatever the mode is in which this file is imported: gradients go through it
def _folding() -> Tensor:
    """Which of 5x5 taps are summed into which of the 3x3 taps of the four phases: [25, 36], of zeros and ones."""
    # Which of the five taps fall on the pixel before, on and after: for even outputs, for odd ones.
    even = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    odd = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    taps = torch.tensor([even, odd], dtype=torch.float32, device="cpu").permute(2, 0, 1)  # [tap, phase, pixel]
    rows, columns = taps[:, None, :, None, :, None], taps[None, :, None, :, None, :]
    return (rows * columns).reshape(25, 36)


_FOLDING = _folding()


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """At 9/25 of the multiplications: taps that fall on the same low-resolution pixel are summed first.

    That leaves a 3x3 kernel for each of the four phases.
    """
    with _without_autocast():
        kernel = (weight.flatten(2) @ _FOLDING.to(weight)).unflatten(2, (4, 3, 3)).transpose(1, 2).flatten(0, 1)
    biases = None if bias is None else bias.repeat_interleave(4)
    padded = _pad(x, [1, 1, 1, 1], "replicate")
    y = F.pixel_shuffle(F.conv2d(padded, kernel.to(memory_format=_layout(x)), biases), 2)
    # Padded by replication, the outermost ring saw the edge where reflection shows the pixel beside it.
    edges = _keep_layout(x.view_as(x))
    rows, columns = _ring(edges, weight, "reflect"), _ring(edges.mT, weight.mT, "replicate").mT
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


def _ring(x: Tensor, weight: Tensor, padding: str) -> Tensor:
    """What the first and the last output row lack, [B, out, 2, 2W]: the outermost taps, on the wrong row so far."""
    size = x.shape[2]
    shown, seen = x.index_select(2, torch.tensor([1, size - 2, 0, size - 1], device=x.device)).chunk(2, 2)
    lacking = _pad((shown - seen).repeat_interleave(2, -1), [2, 2, 0, 0], padding)
    # The two rows as groups of channels.
    taps = weight[:, :, ::4].permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
    rows = F.conv2d(lacking.transpose(1, 2).flatten(1, 2).unsqueeze(2), taps, groups=2)
    return rows.squeeze(2).unflatten(1, (2, -1)).transpose(1, 2)


# -- layouts and precision ---------------------------------------------------------------------------------------------


def add(x: Tensor, y: Tensor) -> Tensor:
    """With a gradient in the sum's own layout."""
    return _keep_layout(x + y)


def _keep_layout(x: Tensor) -> Tensor:
    """Gradients of ``x`` come in its own layout: sums and norms of two layouts take several times as long."""
    if x.requires_grad and _layout(x) == torch.channels_last:
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return x


def _layout(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def _without_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def _pad(x: Tensor, sides: list[int], mode: str) -> Tensor:
    with _without_autocast():  # it would copy to float32 and back
        return F.pad(x, sides, mode=mode)
