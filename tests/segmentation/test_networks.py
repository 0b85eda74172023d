"""DeepLab-v2, its VGG variant, the output discriminator and their weight files."""

import logging
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import conv2d

from da_lightning.errors import CheckpointError, UserError
from da_lightning.segmentation.networks.deeplab import DeepLabV2, DilatedHead
from da_lightning.segmentation.networks.discriminator import OutputDiscriminator
from da_lightning.segmentation.networks.light import LightNet
from da_lightning.segmentation.networks.vgg import DeepLabVGG16
from da_lightning.segmentation.networks.weights import load_weights
from da_lightning.training.weights import read_state_dict

BACKBONES = ["resnet18", "resnet50", "resnet101", "resnet101_caffe"]
RATES = (6, 12, 18, 24)


def on_meta(network: type[nn.Module], *args: Any, **options: Any) -> nn.Module:
    """A network without memory: shapes, strides and names only."""
    with torch.device("meta"):
        return network(*args, **options)


def small(num_classes: int = 5, **options: Any) -> DeepLabV2:
    return DeepLabV2(num_classes, backbone="resnet18", **options)


def randomised(network: nn.Module) -> nn.Module:
    """Batch norms that are not the identity, as after training."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(std=0.1)
    return network


def official(network: nn.Module) -> dict[str, Tensor]:
    """An official file's state dict: no note on the head. One constant per entry makes it a file of kilobytes."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("_extra_state")}
    return {name: torch.randn(()).expand(value.shape).to(value.dtype) for name, value in state.items()}


def holds(network: nn.Module, state: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], value) for name, value in state.items())


# -- sizes, strides, dilations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "image", "logits"),
    [
        ("resnet101_caffe", (720, 1280), (91, 161)),
        ("resnet101_caffe", (512, 1024), (65, 129)),
        ("resnet18", (512, 1024), (64, 128)),
        ("resnet50", (512, 1024), (64, 128)),
        ("resnet101", (721, 1281), (91, 161)),
    ],
)
def test_logits_have_stride_8(backbone: str, image: tuple[int, int], logits: tuple[int, int]) -> None:
    main, auxiliary = on_meta(DeepLabV2, 19, backbone)(torch.empty(1, 3, *image, device="meta"))
    assert main.logits.shape == auxiliary.logits.shape == (1, 19, *logits)


def test_a_single_level_returns_the_main_head_alone() -> None:
    image = torch.empty(1, 3, 512, 1024, device="meta")
    for network in (on_meta(DeepLabV2, 19, "resnet18", multi_level=False), on_meta(DeepLabVGG16, 19)):
        (main,) = network(image)
        assert main.logits.shape == (1, 19, 64, 128)


def test_caffe_body_strides_on_the_first_1x1_and_dilates_every_block() -> None:
    network = on_meta(DeepLabV2, 19, "resnet101_caffe")
    assert network.maxpool.ceil_mode
    depths, strides, rates = (3, 4, 23, 3), (1, 2, 1, 1), (1, 1, 2, 4)
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    for layer, depth, stride, rate in zip(layers, depths, strides, rates, strict=True):
        assert len(layer) == depth
        for index, block in enumerate(layer):
            first = stride if index == 0 else 1
            assert block.conv1.stride == (first, first)
            assert block.conv2.stride == block.conv3.stride == (1, 1)
            assert block.conv2.dilation == block.conv2.padding == (rate, rate)
        assert layer[0].downsample[0].stride == (stride, stride)


def test_bottleneck_bodies_are_dilated_as_torchvision_dilates() -> None:
    ours = on_meta(DeepLabV2, 5, "resnet50")
    theirs = on_meta(torchvision.models.resnet50, replace_stride_with_dilation=[False, True, True])
    for name, conv in theirs.named_modules():
        if isinstance(conv, nn.Conv2d):
            own = ours.get_submodule(name)
            settings = (own.stride, own.dilation, own.padding, own.kernel_size)
            assert settings == (conv.stride, conv.dilation, conv.padding, conv.kernel_size), name


def test_dilation_keeps_what_the_pretrained_filters_see() -> None:
    """On every fourth position the dilated ResNet-18 is the strided one that was pretrained."""
    ours = randomised(small()).eval()
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    features: list[Tensor] = []
    for layer in (ours.layer4, theirs.eval().layer4):
        layer.register_forward_hook(lambda module, inputs, output: features.append(output))
    image = torch.rand(1, 3, 90, 110)
    with torch.no_grad():
        ours(image)
        theirs((image - ours.normalise.mean) / ours.normalise.deviation)
    torch.testing.assert_close(features[0][..., ::4, ::4], features[1], rtol=1e-4, atol=1e-4)


def test_vgg_has_no_late_pooling_and_dilated_last_convolutions() -> None:
    normalise, *features = on_meta(DeepLabVGG16, 19).features
    assert [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)] == [4, 9, 16]
    convs = {index: layer for index, layer in enumerate(features) if isinstance(layer, nn.Conv2d)}
    rates = {23: 2, 25: 2, 27: 2, 29: 4, 31: 4}
    for index, conv in convs.items():
        rate = rates.get(index, 1)
        assert conv.dilation == conv.padding == (rate, rate)
    assert [convs[index].out_channels for index in (27, 29, 31)] == [512, 1024, 1024]


def test_networks_take_rgb_in_0_1_and_normalise_it_themselves() -> None:
    image = torch.rand(2, 3, 4, 4)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (image.movedim(1, -1) - mean) / deviation
    torch.testing.assert_close(small().normalise(image).movedim(1, -1), expected)
    bgr = image[:, [2, 1, 0]].movedim(1, -1) * 255 - torch.tensor([104.00698793, 116.66876762, 122.67891434])
    deeplab, vgg = DeepLabV2(2, "resnet101_caffe", multi_level=False), DeepLabVGG16(2, normalisation="caffe")
    for normalise in (deeplab.normalise, vgg.features.normalise):
        torch.testing.assert_close(normalise(image).movedim(1, -1), bgr, rtol=1e-5, atol=1e-4)


# -- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_head_sums_four_branches_or_the_legacy_two(legacy: bool) -> None:
    head, features = DilatedHead(7, 3, legacy), torch.randn(2, 7, 20, 30)
    expected = torch.zeros(2, 3, 20, 30)
    for conv, rate in list(zip(head.conv2d_list, RATES, strict=True))[: 2 if legacy else 4]:
        expected += conv2d(features, conv.weight, conv.bias, padding=rate, dilation=rate)
    torch.testing.assert_close(head(features), expected)


def test_legacy_and_full_heads_differ_by_the_last_two_branches() -> None:
    full, legacy = DilatedHead(7, 3, False), DilatedHead(7, 3, True)
    legacy.conv2d_list.load_state_dict(full.conv2d_list.state_dict())
    features = torch.randn(1, 7, 20, 30)
    rest = sum(conv(features) for conv in full.conv2d_list[2:])
    torch.testing.assert_close(full(features) - legacy(features), rest)
    for conv in full.conv2d_list[2:]:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    torch.testing.assert_close(full(features), legacy(features))


def test_every_trainable_parameter_of_a_legacy_head_gets_a_gradient() -> None:
    """DDP waits for ever for those that get none."""
    head = DilatedHead(7, 3, True)
    head(torch.randn(1, 7, 20, 30)).sum().backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in head.parameters())


# -- batch norm and parameter groups ---------------------------------------------------------------------------------


def running_means(network: nn.Module) -> Tensor:
    return torch.cat([value for name, value in network.state_dict().items() if name.endswith("running_mean")])


def test_batch_statistics_are_updated_in_train_mode_though_the_affine_part_is_frozen() -> None:
    network = small(bn_affine="frozen", bn_stats="batch").train()
    before = running_means(network)
    network(torch.rand(2, 3, 48, 48))
    assert not torch.equal(running_means(network), before)


def test_frozen_statistics_stay_frozen_whoever_calls_train() -> None:
    network = randomised(small(bn_stats="frozen"))
    owner = nn.Sequential(network)  # as a Lightning module owns it
    image = torch.rand(2, 3, 48, 48)
    before = running_means(network)
    with torch.no_grad():
        evaluated = owner.eval()(image)[0].logits
        trained = owner.train()(image)[0].logits
    assert network.training and network.layer6.training
    assert torch.equal(running_means(network), before)
    torch.testing.assert_close(trained, evaluated)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("affine", ["frozen", "learned"])
def test_groups_hold_each_trainable_parameter_once(backbone: str, affine: str) -> None:
    network = on_meta(DeepLabV2, 5, backbone, bn_affine=affine)
    groups = network.parameter_groups()
    assert groups.keys() == {"backbone", "heads"}
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    heads = [*network.layer5.parameters(), *network.layer6.parameters()]
    assert {id(parameter) for parameter in groups["heads"]} == {id(parameter) for parameter in heads}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    affines = {id(parameter) for norm in norms for parameter in norm.parameters()}
    assert affines.isdisjoint(grouped) if affine == "frozen" else affines <= set(grouped)


def test_vgg_is_trained_at_one_pace() -> None:
    network = on_meta(DeepLabVGG16, 5)
    groups = network.parameter_groups()
    assert {id(parameter) for parameter in groups["backbone"]} == {id(p) for p in network.parameters()}
    assert groups["heads"] == []


@pytest.mark.parametrize("option", [{"backbone": "resnet19"}, {"bn_affine": "learnt"}, {"bn_stats": "live"}])
def test_unknown_options_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(option))}.*{next(iter(option.values()))}"):
        DeepLabV2(5, **option)
    with pytest.raises(UserError, match="normalisation.*bgr"):
        DeepLabVGG16(5, normalisation="bgr")


# -- discriminator ---------------------------------------------------------------------------------------------------


def test_discriminator_equals_its_definition() -> None:
    discriminator, maps = OutputDiscriminator(5, width=4), torch.rand(2, 5, 64, 96).softmax(1)
    expected, state = maps, discriminator.state_dict()
    for name in ("conv1", "conv2", "conv3", "conv4", "classifier"):
        expected = conv2d(expected, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)
        if name != "classifier":
            expected = torch.where(expected > 0, expected, 0.2 * expected)
    torch.testing.assert_close(discriminator(maps), expected)


def test_discriminator_has_the_papers_size() -> None:
    discriminator = on_meta(OutputDiscriminator, 19)
    assert discriminator(torch.empty(1, 19, 720, 1280, device="meta")).shape == (1, 1, 22, 40)
    assert discriminator(torch.empty(1, 19, 512, 1024, device="meta")).shape == (1, 1, 16, 32)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_781_121


def test_discriminator_refuses_logits_at_stride_8() -> None:
    with pytest.raises(UserError, match="32x32.*16x32"):
        OutputDiscriminator(5)(torch.rand(1, 5, 16, 32))


# -- whole networks from files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "Scale.", "module.Scale.", "network."])
@pytest.mark.parametrize("nested", [False, True])
def test_official_weights_come_back_whatever_wraps_them(prefix: str, nested: bool, tmp_path: Path) -> None:
    network = small()
    state = {name: value for name, value in official(network).items() if "num_batches" not in name}
    content = {prefix + name: value for name, value in state.items()}
    torch.save({"state_dict": content} if nested else content, tmp_path / "weights.pth")
    load_weights(network, tmp_path / "weights.pth")
    assert holds(network, state)


def test_a_file_before_the_zip_format_is_read(tmp_path: Path) -> None:
    network = small()
    state = official(network)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_weights(network, tmp_path / "old.pth")
    assert holds(network, state)


@pytest.mark.parametrize(("setting", "legacy"), [(None, True), (False, False), (True, True)])
def test_official_weights_turn_the_legacy_head_on_unless_it_was_set(
    setting: bool | None, legacy: bool, tmp_path: Path
) -> None:
    torch.save(official(small()), tmp_path / "official.pth")
    network = small(legacy_head=setting)
    load_weights(network, tmp_path / "official.pth")
    assert network.layer5.legacy is network.layer6.legacy is legacy


def test_our_checkpoints_remember_the_head(tmp_path: Path) -> None:
    for legacy in (True, False):
        note = {f"{head}._extra_state": torch.tensor(legacy) for head in ("layer5", "layer6")}
        assert note.items() <= small(legacy_head=legacy).state_dict().items()
        torch.save(official(small()) | note, tmp_path / f"{legacy}.pth")
    network = small()
    for legacy in (True, False):
        load_weights(network, tmp_path / f"{legacy}.pth")
        assert network.layer6.legacy is legacy
        assert all(p.requires_grad is not legacy for p in network.layer6.conv2d_list[2:].parameters())
        resumed = small()
        resumed.load_state_dict(network.state_dict())  # as Lightning does
        assert resumed.layer6.legacy is legacy


def test_a_frozen_network_stays_frozen_when_weights_change_its_head() -> None:
    network = small().requires_grad_(False)
    for legacy in (True, False):
        network.load_state_dict(small(legacy_head=legacy).state_dict())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_our_checkpoint_gives_its_network_only(tmp_path: Path) -> None:
    network = small()
    state = official(network)
    checkpoint = {
        "state_dict": {f"network.{name}": value for name, value in state.items()} | {"judge.weight": torch.zeros(1)},
        "hyper_parameters": {"classes": {"road": [0, 0, 0], "sky": [9, 9, 9]}},
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    load_weights(network, tmp_path / "last.ckpt", {"road": [1, 1, 1], "sky": [2, 2, 2]})
    assert holds(network, state)
    with pytest.raises(CheckpointError, match=r"sky, road.*last\.ckpt.*road, sky"):
        load_weights(network, tmp_path / "last.ckpt", ["sky", "road"])


def test_the_single_level_official_file_calls_its_head_layer5(tmp_path: Path) -> None:
    network = small(multi_level=False)
    state = official(network)
    torch.save({name.replace("layer6.", "layer5."): value for name, value in state.items()}, tmp_path / "single.pth")
    load_weights(network, tmp_path / "single.pth")
    assert holds(network, state)


def test_another_number_of_classes_is_refused_with_both_numbers(tmp_path: Path) -> None:
    torch.save(official(small(19)), tmp_path / "weights.pth")
    network = small(13)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"13 classes.*weights\.pth.*19"):
        load_weights(network, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.layer6.legacy is False


def test_missing_surplus_and_misshapen_entries_are_named_at_once(tmp_path: Path) -> None:
    state = official(small())
    del state["layer2.1.conv1.weight"]
    state["layer7.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    named = r"missing: layer2\.1\.conv1\.weight; surplus: layer7\.weight; of another shape: conv1\.weight"
    with pytest.raises(CheckpointError, match=named):
        load_weights(small(), tmp_path / "weights.pth")
    torch.save(official(small()) | {f"layer{n}.weight": torch.zeros(1) for n in range(7, 15)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"surplus: layer7\.weight.* and 2 more"):
        load_weights(small(), tmp_path / "weights.pth")


def test_an_auxiliary_head_is_left_out_where_there_is_none(tmp_path: Path) -> None:
    both, single = small(), small(multi_level=False)
    torch.save(both.state_dict(), tmp_path / "weights.pth")
    load_weights(single, tmp_path / "weights.pth")
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in single.state_dict().items())
    with_both, light = (LightNet(5, multi_level=level) for level in (True, False))
    torch.save(with_both.state_dict(), tmp_path / "light.pth")
    load_weights(light, tmp_path / "light.pth")
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(light.eval().infer(image), with_both.eval().infer(image))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "touched"
    torch.save({"state_dict": {"conv1.weight": Hostile(victim)}}, tmp_path / "torch.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile(victim), protocol=2))
    for name in ("torch.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=rf"{name} holds more than tensors"):
            load_weights(small(), tmp_path / name)
    assert not victim.exists()


def test_files_that_hold_no_weights_are_refused_with_their_name(tmp_path: Path) -> None:
    torch.save(OutputDiscriminator(2, 4).state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    contents = {"cut.pth": whole[: len(whole) // 2], "empty.pth": b"", "page.pth": b"<html>not found</html>"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, content in {"list.pth": [1, 2], "nothing.pth": {}, "numbers.pth": {"epoch": 3}}.items():
        torch.save(content, tmp_path / name)
        contents[name] = b""
    (tmp_path / "folder.pth").mkdir()
    for name in (*contents, "folder.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match=name) as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)


# -- pretrained backbones --------------------------------------------------------------------------------------------


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        small()
    assert "random weights" in caplog.text


@pytest.mark.parametrize("prefix", ["", "Scale."])
def test_a_backbone_file_fills_the_backbone_and_names_what_it_leaves(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = official(torchvision.models.resnet18()) | {"layer5.conv2d_list.0.weight": torch.zeros(21, 512, 3, 3)}
    torch.save({prefix + name: value for name, value in source.items()}, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.INFO):
        network = small(pretrained=str(tmp_path / "resnet18.pth"))
    heads = ("fc.", "layer5.", "layer6.")
    assert holds(network, {n: v for n, v in source.items() if not n.startswith(heads) and "num_batches" not in n})
    assert "missing: none; not used: fc.weight, fc.bias, layer5.conv2d_list.0.weight" in caplog.text
    assert network.layer6.legacy is False


def test_less_than_95_percent_of_the_backbone_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = official(torchvision.models.resnet18())
    counted = [name for name in source if "num_batches" not in name and not name.startswith("fc.")]
    for keep, accepted in ((0.96, True), (0.94, False)):
        path = tmp_path / f"{keep}.pth"
        torch.save({name: source[name] for name in counted[: round(keep * len(counted))]}, path)
        if accepted:
            with caplog.at_level(logging.WARNING):
                small(pretrained=str(path))
            assert counted[-1] in caplog.text
        else:
            with pytest.raises(CheckpointError, match=rf"\b{len(counted)}\b.*layer4"):
                small(pretrained=str(path))


def test_another_depth_is_refused(tmp_path: Path) -> None:
    torch.save(official(small()), tmp_path / "resnet18.pth")
    with pytest.raises(CheckpointError, match=r"resnet18\.pth, but only"):
        DeepLabV2(5, backbone="resnet50", pretrained=str(tmp_path / "resnet18.pth"))


def test_vgg_takes_torchvisions_features(tmp_path: Path) -> None:
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=False)
    state = {f"features.{name}": value for name, value in layers.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg16.pth")
    network = DeepLabVGG16(5, pretrained=str(tmp_path / "vgg16.pth"))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*list(network.features)[1:24])(image), layers[:23](image))
    for ours, theirs in ((23, 24), (25, 26), (27, 28)):
        assert torch.equal(network.get_submodule(f"features.{ours}").weight, layers[theirs].weight)


def test_vgg_takes_official_weights(tmp_path: Path) -> None:
    network = DeepLabVGG16(5)
    state = official(network)
    assert {name.split(".")[0] for name in state} == {"features", "classifier"}
    torch.save(state, tmp_path / "official.pth")
    load_weights(network, tmp_path / "official.pth")
    assert holds(network, state)
    assert network.classifier.legacy


def test_imagenet_weights_come_from_the_cache_or_the_failed_download_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(UserError, match=r"resnet18.*no route to host.*resnet18-.*\.pth.*pretrained"):
        small(pretrained="imagenet")
    source = official(torchvision.models.resnet18())
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(source, tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    assert torch.equal(small(pretrained="imagenet").layer4[1].conv2.weight, source["layer4.1.conv2.weight"])


def test_caffe_body_refuses_torchvisions_weights() -> None:
    with pytest.raises(UserError, match="Caffe weights"):
        DeepLabV2(5, backbone="resnet101_caffe", pretrained="imagenet")
