"""Backbones and heads of re-identification."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from da_lightning.errors import CheckpointError, UserError
from da_lightning.networks.base import build_part
from da_lightning.reid.networks import Backbone, LightBackbone, ResNetBackbone
from da_lightning.reid.networks.heads import Embedding, PersonClassifier

PACKAGE = "da_lightning.reid.networks"
RESNET = {"_target_": f"{PACKAGE}.ResNetBackbone", "model": "resnet18"}
IMAGENET = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def randomised(network: nn.Module) -> nn.Module:
    """Batch norms that are not the identity, as after training."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(std=0.1)
    return network


@pytest.fixture(scope="module")
def official() -> nn.Module:
    return randomised(torchvision.models.resnet18()).eval()


@pytest.fixture(scope="module")
def file(official: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(official.state_dict(), path)
    return str(path)


def test_resnet_is_torchvisions(official: nn.Module, file: str) -> None:
    backbone = ResNetBackbone("resnet18", pretrained=file).eval()
    image = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        maps = backbone(image)
        assert maps.shape == (2, backbone.channels, 2, 1)
        torch.testing.assert_close(official.fc(maps.mean((2, 3))), official(IMAGENET(image)), rtol=1e-4, atol=1e-4)


def test_resnet50_has_2048_channels_and_the_names_of_its_weights() -> None:
    with torch.device("meta"):
        backbone = ResNetBackbone("resnet50")
        theirs = torchvision.models.resnet50().state_dict()
    assert backbone.channels == 2048
    assert list(backbone.state_dict()) == [name for name in theirs if not name.startswith("fc.")]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_last_stride_1_is_the_same_function_on_a_finer_grid(name: str) -> None:
    torch.manual_seed(0)
    coarse = randomised(ResNetBackbone(name)).eval()
    fine = ResNetBackbone(name, last_stride=1).eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 3, 64, 32)
    outputs: list[Tensor] = []
    for backbone in (coarse, fine):
        # The first block alone: later ones see their neighbours on the finer grid.
        backbone.layer4[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        assert coarse(image).shape[2:] == (2, 1)
        assert fine(image).shape[2:] == (4, 2)
    if name == "resnet50":  # one strided 3x3 convolution; ResNet-18 has another 3x3 behind it in its block
        torch.testing.assert_close(outputs[1][..., ::2, ::2], outputs[0], rtol=1e-4, atol=1e-4)


def changes(backbone: Backbone) -> tuple[set[str], set[str]]:
    """Names of parameters with a gradient, and of statistics that moved, after a training step."""
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()(torch.rand(2, 3, 64, 32)).square().mean().backward()
    moved = {name for name, value in backbone.named_buffers() if not torch.equal(value, before[name])}
    return {name for name, p in backbone.named_parameters() if p.grad is not None}, moved


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(stages: int) -> None:
    learned, moved = changes(ResNetBackbone("resnet18", frozen_stages=stages))
    free = {f"layer{number}" for number in range(stages + 1, 5)} | ({"conv1", "bn1"} if stages == 0 else set())
    assert {name.split(".")[0] for name in learned} == free
    assert {name.split(".")[0] for name in moved} == free - {"conv1"}


def test_frozen_norms(official: nn.Module, file: str) -> None:
    options = {"model": "resnet18", "pretrained": file}
    image = IMAGENET(torch.rand(2, 3, 64, 32))
    expected = nn.Sequential(*list(official.children())[:-2])(image)
    for frozen, learned_norms in (("statistics", True), ("all", False)):
        backbone = ResNetBackbone(**options, frozen_norms=frozen)
        learned, moved = changes(backbone)
        assert not moved
        assert ("layer4.0.bn1.weight" in learned) == ("bn1.bias" in learned) == learned_norms
        assert {"conv1.weight", "layer4.1.conv2.weight", "layer2.0.downsample.0.weight"} <= learned
        raw = image * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        raw += torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        torch.testing.assert_close(backbone.train()(raw), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "image", "maps"),
    [
        ({}, (64, 32), (2, 1)),
        ({"last_stride": 1}, (64, 32), (4, 2)),
        ({}, (96, 48), (3, 2)),
        ({"width": 8}, (128, 64), (4, 2)),
    ],
)
def test_light_maps(options: dict, image: tuple[int, int], maps: tuple[int, int]) -> None:
    with torch.device("meta"):
        backbone = LightBackbone(**options)
        assert backbone(torch.empty(2, 3, *image)).shape == (2, backbone.channels, *maps)
    assert backbone.channels == 8 * options.get("width", 32)


def test_light_trains_every_parameter_and_is_small() -> None:
    backbone = LightBackbone()
    learned, _ = changes(backbone)
    assert learned == {name for name, _ in backbone.named_parameters()}
    assert 2.5e6 < sum(p.numel() for p in backbone.parameters()) < 3e6


def test_channels_last_gives_the_same_maps() -> None:
    backbone, image = randomised(LightBackbone(width=8)).eval(), torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        maps = backbone(image)
        last = backbone.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(maps, last, rtol=1e-4, atol=1e-4)


def test_embedding_is_normalised_and_the_classifier_starts_near_zero() -> None:
    torch.manual_seed(0)
    embedding = Embedding(300, 200)
    output = embedding(torch.rand(50, 300))
    torch.testing.assert_close(output.mean(0), torch.zeros(200), rtol=0, atol=1e-4)
    assert embedding[0].weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.02)  # by the number of outputs
    classifier = PersonClassifier(200, 500)
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not classifier.bias.any()
    assert PersonClassifier(200, 500, bias=False).bias is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "light"}, "method.backbone._target_ .*name.*light"),
        ({"_target_": f"{PACKAGE}.VGG"}, "VGG"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "derived from Backbone"),
        ({"_target_": f"{PACKAGE}.LightBackbone", "last_stride": 3}, r"last_stride=3 was refused"),
        ({"_target_": f"{PACKAGE}.LightBackbone", "pretrained": "imagenet"}, "pretrained is not an option"),
        ({**RESNET, "frozen_stages": 5}, "frozen_stages=5 was refused"),
        ({**RESNET, "frozen_norms": "some"}, "frozen_norms"),
        ({**RESNET, "model": "fcn_resnet50"}, "method.backbone.model='fcn_resnet50' was refused"),
        ({"_target_": f"{PACKAGE}.Backbone"}, "abstract"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_part(options, Backbone, "method.backbone")


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other.pth"):
        ResNetBackbone("resnet18", pretrained=str(tmp_path / "other.pth"))
