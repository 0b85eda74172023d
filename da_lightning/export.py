"""Write a trained network to a file that runs without this library.

    python -m da_lightning.export checkpoint=.../last.ckpt output=segmenter.onnx

checkpoint=     one of ours, like a run's checkpoints/last.ckpt; of a training with callbacks=ema the average
output=         a file to write: .onnx for any ONNX runtime, .pt2 for torch.export.load
overwrite=true  replace the file
height= width=  one size of images; left out, any size where the network allows it
batch_size=     one number of images; left out, any

Every file takes RGB images, float32 [batch, 3, height, width] in [0, 1]; normalising is part of the graph. Class names,
sizes and the like are in the file's metadata. After writing, the file is run on random images, of two sizes where sizes
are open, and held against the method. Where outputs differ by more than 1e-4 (of the largest output, if that is beyond
1; for class ids: by more than this share of them) the file is removed.

Segmentation gives class logits at the image's size
argmax=true     class ids instead, uint8

Translation gives RGB in [0, 1]; methods with styles have an input `style`, those with many domains an input `domain`
to=target       or source

Re-identification gives features of length 1, of images of the size that the method was trained at
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from da_lightning.errors import UserError
from da_lightning.exported_files import WRITERS
from da_lightning.files import check_writable, whole_file
from da_lightning.names import shown
from da_lightning.screen import run_command

if TYPE_CHECKING:
    from torch import Tensor, nn

    from da_lightning.training.exportable import Exportable

# Heavy imports (torch, onnx) wait until there is something to do: --help must answer at once.

TOLERANCE = 1e-4
"""How far outputs of a file may be from the method's, over the largest or 1; or the share of class ids that differ."""


def main() -> None:
    """Entry point of ``python -m da_lightning.export`` and of ``da-lightning export``."""
    run_command(__doc__, export)


def export(
    checkpoint: str,
    output: str,
    overwrite: bool = False,
    height: int | None = None,
    width: int | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> None:
    """Export the method in a checkpoint; the options are those of the command line, see ``--help``.

    Raises:
        UserError: Options or a checkpoint that do not fit, a network that cannot be exported, or a file whose outputs
            are not the method's, which is removed.
    """
    from da_lightning.arguments import checked_arguments
    from da_lightning.predict import load_method
    from da_lightning.training.abilities import Exports

    file = Path(output).expanduser()
    if file.suffix not in WRITERS:
        raise UserError(f"output={file} must end in {' or '.join(WRITERS)}.")
    if file.exists() and not (overwrite and file.is_file()):
        raise UserError(f"output={file} is there already: choose another name, or set overwrite=true.")
    check_writable(file.parent)
    module = load_method(checkpoint).eval()
    if not isinstance(module, Exports):
        raise UserError(f"{type(module).__name__} is of a family that cannot be exported yet.")
    found = of_size(module.exportable(**checked_arguments(module.exportable, options, "export")), height, width)
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    worst = write(found, file, name, batch_size)
    print(f"{shown(file)}: {file.stat().st_size / 2**20:.1f} MB, its outputs are the method's to {worst:.1e}.")
    sizes = f"any size from {_smallest(found)} pixels a side on, in multiples of {found.multiple}"
    if found.size:
        sizes = f"{found.size[0]}x{found.size[1]} alone: resize others"
    print(f"It takes images of {sizes}.")


def of_size(found: "Exportable", height: int | None, width: int | None) -> "Exportable":
    """``found`` for images of one size alone; with ``None`` as it is.

    Raises:
        UserError: A size that it does not take.
    """
    if height is None or width is None:
        if height != width:
            raise UserError("height and width belong together: give both, or neither.")
        return found
    if found.size not in (None, (height, width)):
        raise UserError(
            f"This network takes images of {found.size[0]}x{found.size[1]} alone: leave out height and width."
        )
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % found.multiple:
            raise UserError(f"{name}={side} must be a multiple of {found.multiple}.")
    return replace(found, size=(height, width))


def write(found: "Exportable", file: Path, method: str, batch_size: int | None = None) -> float:
    """Write ``file`` and hold it against ``found``.

    Args:
        method: What the metadata call it.
        batch_size: The one number of images; ``None``: any.

    Returns:
        The largest difference of outputs, as :data:`TOLERANCE` bounds it.

    Raises:
        UserError: A network that cannot be exported, a missing package, or other outputs; no
            file is left then.
    """
    import torch

    if found.is_sized and not found.size:
        raise UserError(
            "A file of this network is for images of one size, by which it pads them or cuts them into windows: give "
            "height and width."
        )
    cases = _cases(found, batch_size)
    network, writer = found.network.eval(), WRITERS[file.suffix]
    open_sizes = _open_sizes(found, batch_size)
    try:
        with torch.no_grad():
            wanted, used = _outputs(network, cases)
            with _used_alone(network, used):
                program = torch.export.export(network, cases[0], dynamic_shapes=open_sizes)
    except Exception as error:  # torch's own kinds, and whatever the network raises at a size it does not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if any(open_sizes):
            raise UserError(f"The network has no open sizes ({reason}): give height, width and batch_size.") from error
        raise UserError(f"The network cannot be exported ({reason}).") from error
    with whole_file(file) as part:
        run = writer(program, part, found, _metadata(found, method, batch_size))
        return max(_difference(run(inputs), output) for inputs, output in zip(cases, wanted, strict=True))


def _cases(found: "Exportable", batch_size: int | None) -> list[tuple["Tensor", ...]]:
    """Random inputs of two sizes and two numbers of images, where these are open."""
    import torch

    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be 1 or more.")
    step = found.multiple
    short, more = -(-max(64, found.smallest) // step) * step, -(-32 // step) * step
    sizes = [found.size] * 2 if found.size else [(short, short + more), (short + more + step, short + step)]
    counts = [batch_size] * 2 if batch_size else [2, 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            (torch.rand(count, 3, *size), *(draw(count) for draw in found.further.values()))
            for count, size in zip(counts, sizes, strict=True)
        ]


def _smallest(found: "Exportable") -> int:
    return -(-found.smallest // found.multiple) * found.multiple


def _open_sizes(found: "Exportable", batch_size: int | None) -> tuple[dict[int, Any], ...]:
    """The dimensions of each input that are open, for torch.export."""
    from torch.export import Dim

    batch = {} if batch_size else {0: Dim("batch")}
    step = found.multiple
    names = {} if found.size else {2: "height", 3: "width"}
    image = {
        axis: step * Dim(f"{name}_by_{step}", min=_smallest(found) // step)
        if step > 1
        else Dim(name, min=found.smallest)
        for axis, name in names.items()
    }
    return ({**batch, **image}, *(batch for _ in found.further))


@contextmanager
def _used_alone(network: "nn.Module", used: set[int]) -> Iterator[None]:
    """Inside, ``network`` lacks the weights whose ids are not ``used``: discriminators, say, which files would hold."""
    stores: list[dict[str, Any]] = [
        store for module in network.modules() for store in (module._parameters, module._buffers)
    ]
    unused = [(s, name, t) for s in stores for name, t in s.items() if t is not None and id(t) not in used]
    for store, name, _ in unused:
        store[name] = None
    try:
        yield
    finally:
        for store, name, tensor in unused:
            store[name] = tensor


def _outputs(network: "nn.Module", cases: Sequence[tuple["Tensor", ...]]) -> tuple[list["Tensor"], set[int]]:
    """What ``network`` makes of ``cases``, and the ids of the tensors it makes it with."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    used: set[int] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            used.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            return function(*args, **(kwargs or {}))

    with Watch():
        return [network(*inputs) for inputs in cases], used


def _metadata(found: "Exportable", method: str, batch_size: int | None) -> dict[str, Any]:
    import torch

    import da_lightning

    return {
        "da_lightning": da_lightning.__version__,
        "torch": torch.__version__,
        "method": method,
        "image": "float32 RGB [batch, 3, height, width] in [0, 1]",
        "output": found.output,
        "size": found.size,
        "size_multiple": found.multiple,
        "smallest_side": None if found.size else _smallest(found),
        "batch_size": batch_size,
        **found.about,
    }


def _difference(actual: "Tensor", wanted: "Tensor") -> float:
    if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
        raise UserError(
            f"The file gives {actual.dtype} {list(actual.shape)} where the method gives {wanted.dtype} "
            f"{list(wanted.shape)}, so it was removed: try the other kind of file."
        )
    if not wanted.is_floating_point():
        worst = (actual != wanted).float().mean().item()
        what = "share of class ids that differ"
    else:
        # Rounding grows with what is summed: of outputs beyond 1, the largest is the measure.
        worst = ((actual - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
        what = "largest difference"
    if not worst <= TOLERANCE:  # nor for NaN
        raise UserError(
            f"The file's outputs are not the method's ({what}: {worst:.1e}, allowed: {TOLERANCE:.0e}), so it was "
            "removed: try the other kind of file."
        )
    return worst


if __name__ == "__main__":
    main()
