"""MiT and the DAFormer head against outputs of the official code."""

from typing import Any

import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from torch import Tensor

from da_lightning.segmentation.networks import MiTNetwork

FILES = golden_files("daformer_networks*.npz")
HEAD = "da_lightning.segmentation.networks.DAFormerHead"


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> tuple[MiTNetwork, dict[str, Tensor], dict[str, Any]]:
    arrays, meta = read_golden(request.param)
    head = meta["head"]
    options = {"_target_": HEAD, "width": head["channels"], "rates": head["dilations"], "dropout": 0.0}
    network = MiTNetwork(head["num_classes"], meta["variant"], options)
    state = {name.replace("decode_head.", "head."): value for name, value in filled_state(meta["keys"]).items()}
    own = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert own == set(state)
    network.load_state_dict(state, strict=False)
    assert sum(p.numel() for p in network.backbone.parameters()) == meta["parameters"]
    assert network.channels == tuple(head["in_channels"]) and network.strides == (4, 8, 16, 32)
    return network, arrays, meta


def assert_recorded(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


@torch.no_grad()
def test_maps_and_logits_equal_the_official_ones(recorded: tuple) -> None:
    network, arrays, meta = recorded
    mean, std = (torch.tensor(meta[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(network.backbone.normalise.mean * 255, mean)
    torch.testing.assert_close(network.backbone.normalise.deviation * 255, std)
    pyramid = network.eval().features(arrays["image"] / 255)
    for number, level in enumerate(pyramid):
        assert_recorded(level, arrays[f"feature{number}"])
    assert_recorded(network.decode(pyramid)[0].logits, arrays["logits"])
    assert_recorded(network.infer(arrays["image"] / 255), arrays["logits"])


@torch.no_grad()
def test_logits_and_statistics_of_a_batch_equal_the_official_ones(recorded: tuple) -> None:
    network, arrays, _ = recorded
    maps = [arrays[f"feature{number}"] for number in range(4)]
    network.train()
    logits = network.decode(tuple(torch.cat([level, 0.5 * level.flip(3)]) for level in maps))[0].logits
    assert_recorded(logits, arrays["logits_train"])
    for name in ("running_mean", "running_var"):
        own = network.get_buffer(f"head.fuse_layer.bottleneck.bn.{name}")
        assert_recorded(own, arrays[f"bn_train/fuse_layer.bottleneck.bn.{name}"])
