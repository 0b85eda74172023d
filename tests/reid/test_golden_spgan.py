"""SPGAN's networks and contrastive loss against recorded numbers of the official PyTorch code."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from torch import Tensor, nn

from da_lightning.reid.networks.siamese import SiaNet, attraction, repulsion
from da_lightning.translation.networks.cyclegan import PatchDiscriminator, ResnetGenerator, official_state

FILES = golden_files("spgan*.npz")
MARGIN = 2.0  # the official default, which the recording does not name


@pytest.fixture(scope="module", params=FILES, ids=lambda file: file.stem)
def golden(request: pytest.FixtureRequest) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read_golden(Path(request.param))


def loaded(network: nn.Module, keys: dict[str, list[int]], prefix: str = "") -> nn.Module:
    state = {name.removeprefix(prefix): value for name, value in filled_state(keys).items()}
    network.load_state_dict(official_state(state))
    return network.eval()


def embeddings(arrays: dict[str, Tensor], meta: dict[str, Any]) -> list[Tensor]:
    keys, (channels, *size) = meta["siamese_keys"], meta["siamese"]["input"]
    convolutions = [name for name, shape in keys.items() if len(shape) == 4]
    network = SiaNet(
        tuple(size),
        blocks=len(convolutions),
        width=meta["siamese"]["nsf"],
        hidden=keys["fc1.weight"][0],
        embedding=keys["fc2.weight"][0],
    )
    loaded(network, keys)
    shape = len(arrays["sia_a"]), channels, *size
    with torch.no_grad():
        seeds = (torch.Generator().manual_seed(seed) for seed in meta["sia_seeds"])
        return [network(torch.rand(shape, generator=seed) * 2 - 1) for seed in seeds]


def test_siamese_network_and_contrastive_loss(golden: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    arrays, meta = golden
    found = embeddings(arrays, meta)
    for name, embedding in zip(("sia_a", "sia_b"), found, strict=True):
        torch.testing.assert_close(embedding, arrays[name], rtol=1e-4, atol=1e-5)
    assert attraction(*found).item() == pytest.approx(float(arrays["loss_positive"]), rel=1e-4)
    assert repulsion(*found, MARGIN).item() == pytest.approx(float(arrays["loss_negative"]), rel=1e-4)


def test_generator_and_discriminator(golden: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    arrays, meta = golden
    of_generator, of_discriminator = meta["generator_keys"], meta["discriminator_keys"]
    blocks = {match[1] for name in of_generator if (match := re.search(r"(\d+)\.conv_block", name))}
    generator = loaded(ResnetGenerator(of_generator["G.model.1.weight"][0], len(blocks)), of_generator, "G.")
    discriminator = loaded(PatchDiscriminator(of_discriminator["D.model.0.weight"][0]), of_discriminator, "D.")
    with torch.no_grad():
        image = arrays["gen_in"]
        torch.testing.assert_close(generator(image), arrays["gen_out"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(discriminator(image), arrays["dis_out"], rtol=1e-4, atol=1e-5)
