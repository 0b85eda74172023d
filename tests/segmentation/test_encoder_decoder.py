"""Backbones under heads: MiT's files, the auxiliary level, what a head cannot take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from da_lightning.errors import CheckpointError, UserError
from da_lightning.networks.base import build_part
from da_lightning.segmentation.networks import Level, MiTNetwork, SegmentationNetwork
from da_lightning.segmentation.networks.heads import DAFormerHead, DeepLabHead, Head, LightHead, PlainHead
from da_lightning.segmentation.source_only import SourceOnly

HEADS = "da_lightning.segmentation.networks.heads"
PLAIN, LIGHT, DAFORMER, DEEPLAB = (
    {"_target_": f"{HEADS}.{name}"} for name in ("PlainHead", "LightHead", "DAFormerHead", "DeepLabHead")
)


def network(options: dict[str, Any]) -> SegmentationNetwork:
    return build_part(options, SegmentationNetwork, "method.network", num_classes=5)


def timm_network(backbone: str, head: dict[str, Any], **options: Any) -> SegmentationNetwork:
    pytest.importorskip("timm")
    target = "da_lightning.segmentation.networks.TimmNetwork"
    return network({"_target_": target, "backbone": backbone, "head": head, **options})


def mit(**options: Any) -> MiTNetwork:
    return MiTNetwork(5, **{"backbone": "mit_b0", "head": DAFORMER, **options})


# -- files of MiT ------------------------------------------------------------------------------------------------------


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights by the names that transformers' SegFormer has."""
    renamed = {
        "proj": "patch_embeddings.{}.proj",
        "norm": "patch_embeddings.{}.layer_norm",
    }
    inside = {
        "norm1": "layer_norm_1",
        "norm2": "layer_norm_2",
        "attn.q": "attention.self.query",
        "attn.sr": "attention.self.sr",
        "attn.norm": "attention.self.layer_norm",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.dense1",
        "mlp.fc2": "mlp.dense2",
        "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    }
    result = {}
    for name, value in state.items():
        place, _, entry = name.rpartition(".")
        first, _, rest = place.partition(".")
        stage = int(first[-1]) - 1
        if first.startswith("patch_embed"):
            new = {renamed[rest].format(stage): value}
        elif first.startswith("norm"):
            new = {f"layer_norm.{stage}": value}
        else:
            number, _, part = rest.partition(".")
            block = f"block.{stage}.{number}"
            if part == "attn.kv":
                key, content = value.chunk(2)
                new = {f"{block}.attention.self.key": key, f"{block}.attention.self.value": content}
            else:
                new = {f"{block}.{inside[part]}": value}
        result |= {f"segformer.encoder.{place}.{entry}": v for place, v in new.items()}
    return result | {"decode_head.classifier.weight": torch.zeros(3)}


@pytest.mark.parametrize("kind", ["official", "in a segmenter", "transformers"])
def test_files_of_mit_load_whole(kind: str, tmp_path: Path) -> None:
    state = mit().backbone.state_dict()
    files = {
        "official": {**state, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)},
        "in a segmenter": {f"backbone.{n}": v for n, v in state.items()}
        | {"decode_head.conv_seg.bias": torch.zeros(3)},
        "transformers": as_transformers(state),
    }
    torch.save(files[kind], tmp_path / "mit_b0.pth")
    loaded = mit(pretrained=str(tmp_path / "mit_b0.pth")).backbone.state_dict()
    for name, value in state.items():
        assert torch.equal(loaded[name], value), name


def test_half_a_file_of_transformers_is_refused(tmp_path: Path) -> None:
    state = as_transformers(mit().backbone.state_dict())
    torch.save({name: value for name, value in state.items() if ".self.value." not in name}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"missing: block1\.0\.attn\.kv\.weight"):
        mit(pretrained=str(tmp_path / "half.pth"))


def test_files_of_another_variant_are_refused(tmp_path: Path) -> None:
    torch.save(mit().backbone.state_dict(), tmp_path / "mit_b0.pth")
    with pytest.raises(CheckpointError, match=r"of mit_b1 in .*mit_b0\.pth.*of another shape: patch_embed1"):
        mit(backbone="mit_b1", pretrained=str(tmp_path / "mit_b0.pth"))
    with pytest.raises(UserError, match=r"method\.network\.backbone=mit_b9 .*mit_b0"):
        mit(backbone="mit_b9")


# -- levels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "stride"),
    [
        (lambda **o: mit(**o), 4),
        (lambda **o: timm_network("tf_efficientnet_lite0", LIGHT, **o), 4),
        (lambda **o: timm_network("tf_efficientnet_lite0", DAFORMER, **o), 4),
        (lambda **o: timm_network("tf_efficientnet_lite0", DEEPLAB, **o), 32),
        (lambda **o: timm_network("vit_tiny_patch16_224", PLAIN, **o), 16),
    ],
)
def test_levels_groups_and_the_second_map(make: Any, stride: int) -> None:
    one, two = make(), make(multi_level=True)
    image = torch.rand(2, 3, 96, 128)
    assert [level.logits.shape for level in one(image)] == [(2, 5, 96 // stride, 128 // stride)]
    main, auxiliary = two(image)
    assert auxiliary.logits.shape[-2] == 96 // two.strides[-2]
    for each in (one, two):
        groups = each.parameter_groups()
        assert all(groups.values())
        assert sorted(map(id, sum(groups.values(), []))) == sorted(map(id, each.parameters()))
    sum(level.logits.square().mean() for level in (main, auxiliary)).backward()
    assert all(p.grad is not None for p in two.parameters())


def test_a_level_counts_where_it_lies_and_by_its_own_weight() -> None:
    light = {"_target_": "da_lightning.segmentation.networks.LightNet", "width": 8}
    module = SourceOnly(
        classes={"a": (0, 0, 0), "b": (1, 1, 1)},
        network=light,
        optimizer={"name": "SGD", "lr": 0.1},
        max_iters=1,
        auxiliary_weight=0.3,
    )
    label, logits = torch.randint(0, 2, (1, 8, 12)), torch.randn(1, 2, 8, 12)
    whole = Level(logits)
    part = Level(logits[..., 2:6, 4:12], (2, 6, 4, 12), 0.1)
    terms = module.supervised([whole, part, Level(logits), whole], label)
    assert [term.weight for term in terms.values()] == [1.0, 0.1, 0.3, 0.3]
    cross = nn.functional.cross_entropy
    losses = [term.value for term in terms.values()]
    torch.testing.assert_close(losses[0], cross(logits, label))
    torch.testing.assert_close(losses[1], cross(logits[..., 2:6, 4:12], label[:, 2:6, 4:12]))


@pytest.mark.parametrize(
    ("kind", "strides", "message"),
    [
        (LightHead, (14, 14, 14), r"stride 4 .*\[14, 14, 14\].*PlainHead"),
        (LightHead, (2, 4), r"stride 8 .*\[2, 4\]"),
        (DAFormerHead, (1, 2), r"stride 4 or more .*\[1, 2\]"),
    ],
)
def test_strides_that_a_head_cannot_take(kind: type[Head], strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(num_classes=3, channels=[8] * len(strides), strides=strides)


@pytest.mark.parametrize("kind", [PlainHead, DeepLabHead])
def test_heads_of_the_last_map_take_any_stride(kind: type[Head]) -> None:
    head = kind(num_classes=3, channels=[8, 8], strides=[14, 14])
    assert head([torch.rand(1, 8, 4, 5)] * 2).shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_target_": "da_lightning.segmentation.networks.LightNett"}, r"method\.network\._target_=.*LightNett"),
        ({"_target_": "os.system"}, r"os\.system.*trusted packages"),
        ({"_target_": "torch.nn.Conv2d"}, "derived from SegmentationNetwork"),
        ({"name": "light"}, r"method\.network\._target_ .*'light'"),
        ({"_target_": "da_lightning.segmentation.networks.SegmentationNetwork"}, "abstract"),
        (
            {"_target_": "da_lightning.segmentation.networks.EncoderDecoder", "backbone": "x", "head": PLAIN},
            "TimmNetwork",
        ),
        ({"_target_": "da_lightning.segmentation.networks.LightNet", "wdth": 3}, r"method\.network\.wdth .*width"),
        (
            {"_target_": "da_lightning.segmentation.networks.MiTNetwork", "backbone": "mit_b0", "head": {"name": "x"}},
            r"method\.network\.head\._target_",
        ),
    ],
)
def test_networks_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        network(options)
    assert "\n" not in str(caught.value)


def test_one_map_has_no_auxiliary_level() -> None:
    with pytest.raises(UserError, match=r"multi_level=true .*one"):
        timm_network("vit_tiny_patch16_224", PLAIN, multi_level=True, options={"out_indices": [-1]})
