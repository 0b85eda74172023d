"""Pyramids of timm's models: what they give, how weights come in, what is refused."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from da_lightning.errors import CheckpointError, UserError
from da_lightning.networks.timm_features import TimmFeatures

timm = pytest.importorskip("timm")

MODELS = [
    "tf_efficientnet_lite0",
    "resnet18",
    "convnext_atto",
    "pvt_v2_b0",
    "mobilenetv3_small_050",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
]


def randomised(network: nn.Module) -> nn.Module:
    """Norms that are not the identity, as after training."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.1)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_maps_have_the_strides_and_channels_that_it_says(model: str) -> None:
    features = TimmFeatures(model).eval()
    maps = features(torch.rand(2, 3, 96, 160))
    assert len(maps) == len(features.strides) == len(features.channels) > 1
    for level, stride, channels in zip(maps, features.strides, features.channels, strict=True):
        assert level.shape == (2, channels, -(-96 // stride), -(-160 // stride))


@torch.no_grad()
@pytest.mark.parametrize("model", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_a_file_gives_the_maps_of_the_whole_model_it_was_saved_from(model: str, tmp_path: Path) -> None:
    whole = randomised(timm.create_model(model))
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    features = TimmFeatures(model, str(tmp_path / "weights.pth")).eval()
    image = torch.rand(1, 3, 224, 224)
    mean, std = (torch.tensor(whole.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = whole.forward_intermediates((image - mean) / std, intermediates_only=True)
    for level, wanted in zip(features(image)[-2:], expected[-2:], strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sides_that_are_no_multiple_of_the_patch_are_resized_inside() -> None:
    features = TimmFeatures("vit_tiny_patch16_224").eval()
    image = torch.rand(1, 3, 40, 50)
    wider = nn.functional.interpolate(image, size=(48, 64), mode="bilinear", align_corners=False)
    assert [tuple(level.shape[-2:]) for level in features(image)] == [(3, 4)] * 3
    for level, wanted in zip(features(image), features(wider), strict=True):
        torch.testing.assert_close(level, wanted)
    with pytest.raises(UserError, match="16x16 .*patch.* 15x50"):
        features(torch.rand(1, 3, 15, 50))


def test_maps_that_would_not_meet_ask_for_multiples() -> None:
    with pytest.raises(UserError, match=r"90x120 .*hrnet_w18_small.* network\.multiple=32"):
        TimmFeatures("hrnet_w18_small")(torch.rand(2, 3, 90, 120))
    assert len(TimmFeatures("hrnet_w18_small", multiple=32)(torch.rand(2, 3, 90, 120))) == 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    states: dict[str, dict[str, Tensor]] = {
        name: timm.create_model(name).state_dict() for name in ("resnet18", "resnet34")
    }
    states["part"] = {n: v for n, v in states["resnet18"].items() if not n.startswith("layer2.")}
    states["one_channel"] = timm.create_model("resnet18", in_chans=1).state_dict()
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in states}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("part", r"missing: layer2\.0\.conv1\.weight"),
        ("resnet34", r"surplus: layer1\.2\.conv1\.weight"),
        ("one_channel", r"of another shape: conv1\.weight"),
    ],
)
def test_files_that_do_not_fit_are_refused_whole(weights: dict[str, Path], file: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        TimmFeatures("resnet18", str(weights[file]), key="method.network")
    assert f"method.network.pretrained={weights[file]}" in str(caught.value)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        TimmFeatures("resnet18", str(tmp_path))


def test_code_in_a_file_of_weights_does_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        TimmFeatures("resnet18", str(tmp_path / "weights.pth"))


def test_weights_by_timms_name_are_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def downloads(model: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            asked.append(model)
            raise OSError("no network")
        return create(model, **options)

    monkeypatch.setattr(timm, "create_model", downloads)
    with pytest.raises(UserError, match=r"resnet18.*no network.*network\.pretrained"):
        TimmFeatures("resnet18", "timm")
    assert asked == ["resnet18"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnett18", None, r"one of timm .*'resnett18'.*list_models"),
        ("mixer_s32_224", None, "mixer_s32_224 takes images of 224x224 alone"),
        ("resnet18", {"drop_pth": 1}, "resnet18 does not take its options .*drop_pth"),
        ("resnet18", {"out_indices": [9]}, "resnet18 gives no feature maps"),
        ("resnet18", {"checkpoint_path": "/tmp/stranger.pth"}, r"network\.options may not have checkpoint_path"),
        ("resnet18", {"pretrained_cfg_overlay": {"file": "x"}}, "options may not have pretrained_cfg_overlay"),
        ("hf-hub:somebody/model", None, r"one of timm"),
    ],
)
def test_models_and_options_that_do_not_fit(model: str, options: dict | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TimmFeatures(model, options=options)
    assert "\n" not in str(caught.value)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"da-lightning\[timm\]"):
        TimmFeatures("resnet18")
