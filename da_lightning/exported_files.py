"""The kinds of files that :mod:`da_lightning.export` writes: ONNX, and torch's exported programs."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from da_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from da_lightning.training.exportable import Exportable

METADATA = "da_lightning.json"
"""Name of the metadata inside a .pt2 file."""

Run = Callable[[tuple["Tensor", ...]], "Tensor"]


def write_onnx(program: "ExportedProgram", file: Path, found: "Exportable", metadata: Mapping[str, Any]) -> Run:
    try:
        import onnx_ir
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"output={file.name} needs {error.name}: install da-lightning[export], or write a .pt2 file."
        ) from None
    import torch

    names = ["image", *found.further]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        try:
            graph = torch.onnx.export(
                program, (), input_names=names, output_names=[found.output], dynamo=True, verbose=False
            )
        except Exception as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"ONNX has no form of this network ({reason}): write a .pt2 file.") from error
    assert graph is not None
    values = [*graph.model.graph.inputs, *graph.model.graph.outputs]
    # Open sizes are called s17 and the like by torch.
    axes = {0: "batch", 2: "height", 3: "width"}
    shapes = [list(value.shape or ()) for value in values]
    known = {str(shapes[0][axis]): name for axis, name in axes.items()}
    for value, shape in zip(values, shapes, strict=True):
        value.shape = onnx_ir.Shape([d if isinstance(d, int) else known.get(str(d), str(d)) for d in shape])
    texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in metadata.items()}
    graph.model.metadata_props.update(texts)
    graph.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(inputs: tuple["Tensor", ...]) -> "Tensor":
        (output,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return torch.from_numpy(output)

    return run


def write_pt2(program: "ExportedProgram", file: Path, found: "Exportable", metadata: Mapping[str, Any]) -> Run:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about weights that share memory
        content = io.BytesIO()  # torch, writing to a full disk itself, raises no OSError
        torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata)})
        file.write_bytes(content.getvalue())
        network = torch.export.load(file).module()
    return lambda inputs: network(*inputs)


WRITERS = {".onnx": write_onnx, ".pt2": write_pt2}
"""By a file's suffix: they write it and give back what runs it."""
