"""Every method's network, and any checkpoint, as a file that another runtime reads."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from omegaconf import OmegaConf
from tiny_runs import METHODS, composed, tiny
from tiny_translators import Tint
from torch import Tensor, nn

from da_lightning import export as exporting
from da_lightning.arguments import option_hints
from da_lightning.config.build import build
from da_lightning.config.roles import class_of_role
from da_lightning.errors import UserError
from da_lightning.export import export, of_size, write
from da_lightning.exported_files import METADATA, Run, write_pt2
from da_lightning.predict import load_method
from da_lightning.reid.networks.base import Backbone
from da_lightning.reid.source_only import ReidSourceOnly
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.training.exportable import Exportable
from da_lightning.training.module import AdaptationModule
from da_lightning.translation.munit import MUNIT
from da_lightning.translation.stargan import StarGAN

pytestmark = pytest.mark.slow

FACTS = {"num_domains": 2, "num_persons": 4, "image_size": [48, 32], "interpolation": "bicubic", "target_size": 6}
"""Options that the data would give."""


def of(method: str) -> AdaptationModule:
    """A method without its data, in eval mode."""
    cfg = composed(f"method={method}", *tiny(method))
    torch.manual_seed(0)
    taken = option_hints(class_of_role(cfg.method._target_, (AdaptationModule,), "method"))
    open_ones = {name: value for name, value in FACTS.items() if name in taken and cfg.method.get(name) is None}
    return build(OmegaConf.merge(cfg.method, open_ones), "method").eval()


def program(file: Path) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """A .pt2 file, and what it says of itself."""
    extra = {METADATA: ""}
    module = torch.export.load(file, extra_files=extra).module()
    return module, json.loads(extra[METADATA])


@pytest.fixture(scope="module")
def written() -> dict[str, float]:
    """By network: methods that share one need no second file."""
    return {}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_as_a_program(method: str, written: dict[str, float], tmp_path: Path) -> None:
    module = of(method)
    found = module.exportable()
    graph = str((type(found.network), _parts_in_use(found), found.further.keys(), found.size))
    if graph not in written:
        written[graph] = write(found, tmp_path / "network.pt2", method)
    assert written[graph] <= 1e-4


def _parts_in_use(found: Exportable) -> list[str]:
    case = exporting._cases(found, None)[:1]
    with torch.no_grad():
        used = exporting._outputs(found.network, case)[1]
    return [f"{name}{list(p.shape)}" for name, p in found.network.named_parameters() if id(p) in used]


# -- ONNX --------------------------------------------------------------------------------------------------------------


def onnx(module: AdaptationModule, file: Path, **options: Any) -> tuple[Callable[..., Tensor], Any]:
    """What runs the module's ONNX file, and its session."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert write(module.exportable(**options), file, "method") <= 1e-4
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run, session


def shapes(session: Any) -> dict[str, list[int | str]]:
    return {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}


@torch.no_grad()
def test_styled_translations_in_onnx(tmp_path: Path) -> None:
    module = of("munit")
    assert isinstance(module, MUNIT)
    run, session = onnx(module, tmp_path / "network.onnx", to="source")
    image_shape = ["batch", 3, "height", "width"]
    assert shapes(session) == {"image": image_shape, "style": ["batch", 2], "translation": image_shape}
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["to"] == "source"
    assert metadata["size_multiple"] == "4"
    image, style = torch.rand(3, 3, 40, 68), torch.randn(3, 2)
    wanted = module.translate(image * 2 - 1, "source", style).clamp(-1, 1)
    torch.testing.assert_close(run(image, style) * 2 - 1, wanted, atol=2e-4, rtol=0)


@torch.no_grad()
def test_domains_in_onnx(tmp_path: Path) -> None:
    module = of("camera_style")
    assert isinstance(module, StarGAN)
    run, session = onnx(module, tmp_path / "network.onnx")
    assert shapes(session)["domain"] == ["batch"]
    assert session.get_modelmeta().custom_metadata_map["num_domains"] == "2"
    image, domain = torch.rand(2, 3, 40, 68), torch.tensor([1, 0])
    torch.testing.assert_close(run(image, domain) * 2 - 1, module.generate(image * 2 - 1, domain), atol=2e-4, rtol=0)


@torch.no_grad()
def test_class_ids_in_onnx(tmp_path: Path) -> None:
    module = of("segmentation_source_only")
    assert isinstance(module, SourceOnly)
    run, session = onnx(module, tmp_path / "network.onnx", argmax=True)
    assert shapes(session)["label"] == ["batch", "height", "width"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(module.classes)
    assert json.loads(metadata["normalisation"]) == {"mean": [0.45] * 3, "std": [0.25] * 3}
    image = torch.rand(1, 3, 53, 71)
    wanted = module(image).argmax(1)
    assert (run(image) == wanted).float().mean() > 0.999
    assert len(wanted.unique()) > 1


class OneLayer(Backbone):
    """In place of one of twenty: their layers are those of the segmenter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


@torch.no_grad()
def test_features_of_stripes_in_onnx(tmp_path: Path) -> None:
    module = of("reid_source_only")
    assert isinstance(module, ReidSourceOnly)
    module.backbone, module.feature, module.stripes, module.flip_average = OneLayer(), "pool5", 5, True
    run, session = onnx(module, tmp_path / "network.onnx")
    assert shapes(session)["image"] == ["batch", 3, 48, 32]
    assert session.get_modelmeta().custom_metadata_map["size"] == "[48, 32]"
    image = torch.rand(3, 3, 48, 32)
    features = run(image)
    assert features.shape == (3, 40)
    torch.testing.assert_close(features, nn.functional.normalize(module.embed(image)), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_without_its_packages_onnx_is_refused(tint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime.*da-lightning\[export\]"):
        export(str(tint), str(tmp_path / "tint.onnx"))
    assert not list(tmp_path.glob("*.onnx"))


# -- checkpoints and options -------------------------------------------------------------------------------------------


@pytest.fixture
def tint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the tiny translator, from a training that averaged."""
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_translators,test_export")
    return saved(Tint(), tmp_path / "tint.ckpt")


def saved(module: AdaptationModule, file: Path) -> Path:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(file)
    content = torch.load(file, weights_only=True)
    own = {name: torch.zeros_like(value) for name, value in content["state_dict"].items()}
    torch.save(content | {"current_model_state": own}, file)
    return file


@torch.no_grad()
def test_averaged_weights_are_exported(tint: Path, tmp_path: Path) -> None:
    export(str(tint), str(tmp_path / "new" / "tint.pt2"))
    run, metadata = program(tmp_path / "new" / "tint.pt2")
    image = torch.rand(1, 3, 36, 44)
    wanted = load_method(tint).translate(image * 2 - 1, "target")
    torch.testing.assert_close(run(image) * 2 - 1, wanted)
    assert metadata["method"] == "tiny_translators.Tint"
    assert metadata["size"] is None and metadata["smallest_side"] == 32
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["tint.pt2"]


@torch.no_grad()
def test_fixed_sizes(tint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(str(tint), str(tmp_path / "tint.pt2"), height=8, width=12, batch_size=3, to="source")
    assert "images of 8x12 alone" in capsys.readouterr().out
    run, metadata = program(tmp_path / "tint.pt2")
    assert (metadata["size"], metadata["batch_size"], metadata["to"]) == ([8, 12], 3, "source")
    assert run(torch.rand(3, 3, 8, 12)).shape == (3, 3, 8, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "tint.onx"}, r"must end in \.onnx or \.pt2"),
        ({"output": "tint.ckpt"}, r"must end in"),
        ({"height": 32}, "height and width belong together"),
        ({"height": 30, "width": 32}, "height=30 must be a multiple of 4"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"to": "elsewhere"}, "export.to='elsewhere' was refused"),
        ({"argmax": True}, r"export\.argmax is not an option of exportable: it takes to"),
    ],
)
def test_options_that_do_not_fit(tint: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export(**{"checkpoint": str(tint), "output": str(tmp_path / "tint.pt2"), **options})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.pt2"))


def test_a_file_is_replaced_on_request_alone(tint: Path, tmp_path: Path) -> None:
    file = tmp_path / "tint.pt2"
    file.write_text("precious")
    with pytest.raises(UserError, match="is there already"):
        export(str(tint), str(file))
    assert file.read_text() == "precious"
    export(str(tint), str(file), overwrite=True)
    assert program(file)[1]["task"] == "translation"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda output: output + 0.001, "outputs are not the method's"),
        (lambda output: output * float("nan"), "outputs are not the method's"),
        (lambda output: output[..., 1:], r"gives torch.float32 \[2, 3, 64, 95\]"),
    ],
)
def test_a_file_with_other_outputs_is_removed(
    tint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    def spoilt(*arguments: Any) -> Run:
        run = write_pt2(*arguments)
        return lambda inputs: spoil(run(inputs))

    monkeypatch.setitem(exporting.WRITERS, ".pt2", spoilt)
    words = [f"checkpoint={tint}", f"output={tmp_path / 'new' / 'tint.pt2'}"]
    monkeypatch.setattr(sys, "argv", ["export", *words])
    with pytest.raises(SystemExit, match=message):
        exporting.main()
    assert not list((tmp_path / "new").iterdir())


class OfOneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1000, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return image.reshape(-1, 3, 64, 96).mean(1)


def test_a_network_of_one_size_says_so(tmp_path: Path) -> None:
    network = OfOneSize()
    found = Exportable(network, "mean", {})
    with pytest.raises(UserError, match="height, width and batch_size"):
        write(found, tmp_path / "network.pt2", "method")
    assert not list(tmp_path.iterdir())
    write(of_size(found, 64, 96), tmp_path / "network.pt2", "method")
    assert not torch.export.load(tmp_path / "network.pt2").state_dict
    assert network.spare.weight is not None


def test_help_comes_at_once() -> None:
    code = "import sys; from da_lightning.export import main; main(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "checkpoint=" in shown and shown.endswith("False\n")
