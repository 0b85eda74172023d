"""DRIT's networks against outputs of the official code, read from files of the official layout."""

import re
from pathlib import Path

import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from torch import Tensor

from da_lightning.translation.drit import DRIT

FILES = golden_files("drit*.npz")
with_files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

ADAM = {"name": "Adam", "lr": 1e-4}


def assert_recorded(actual: Tensor, recorded: Tensor) -> None:
    """Within 1e-4 of each value, and of the largest where values cancel."""
    torch.testing.assert_close(actual, recorded.to(actual.dtype), rtol=1e-4, atol=1e-4 * recorded.abs().max().item())


def network_of(shapes: dict[str, list[int]], folder: Path) -> DRIT:
    """A module of the recording's sizes and weights, read as an official checkpoint."""
    official: dict[str, dict[str, Tensor]] = {}
    for name, value in filled_state(shapes).items():
        network, _, rest = name.partition(".")
        official.setdefault(network, {})[rest] = value
    for network in ("disA", "disB", "disA2", "disB2"):  # one was recorded, an official file has them all
        official.setdefault(network, official["disA"])
    torch.save({**official, "ep": 3, "total_it": 7}, folder / "00003.pth")

    def count(pattern: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(pattern, name))})

    concat = "enc_a.fc_A.0.weight" in shapes
    return DRIT(
        concat=concat,
        width=shapes["enc_c.convA.0.model.1.weight"][0],
        style_dim=shapes["enc_a.fc_A.0.weight"][0] if concat else shapes["gen.mlpA.0.weight"][1],
        residuals=count(r"enc_c\.convA\.(\d+)") - 3,
        discriminator_width=shapes["disA.Diss.0.0.model.1.weight"][0],
        discriminator_scales=count(r"disA\.Diss\.(\d+)"),
        discriminator_layers=count(r"disA\.Diss\.0\.(\d+)\.model"),
        content_layers=count(r"disContent\.model\.(\d+)\.model") - 1,
        init_from=str(folder / "00003.pth"),
        optimizer=ADAM,
        max_iters=1,
    ).eval()


@pytest.mark.slow
@with_files
@torch.no_grad()
def test_networks_equal_the_official_ones(path: Path, tmp_path: Path) -> None:
    arrays, meta = read_golden(path)
    module = network_of(meta["keys"], tmp_path)
    images, z = inputs(meta["note"], module.style_dim)
    if "z" in arrays:
        assert torch.equal(z, arrays["z"])
    contents = {}
    for domain, letter in (("source", "a"), ("target", "b")):
        contents[domain] = module.content_encoder(images[domain], domain)
        corner = arrays[f"content_{letter}_corner"]
        assert_recorded(contents[domain][:, : corner.shape[1], : corner.shape[2], : corner.shape[3]], corner)
        if module.concat:
            mean, log_variance = module.attribute_encoders[domain](images[domain])
            assert_recorded(log_variance, arrays[f"logvar_{letter}"])
        mean = module.encode_style(images[domain], domain)
        assert_recorded(mean, arrays[f"mu_{letter}"])
    for domain, across, letter in (("target", "source", "b"), ("source", "target", "a")):
        fake = module.generator(contents[across], z, domain)
        centre = arrays[f"fake_{letter}_centre"]
        top, left = (((side - part) // 2) for side, part in zip(fake.shape[2:], centre.shape[2:], strict=True))
        assert_recorded(fake[:, :, top : top + centre.shape[2], left : left + centre.shape[3]], centre)
        if f"fake_{letter}_mean" in arrays:
            assert fake.mean().item() == pytest.approx(arrays[f"fake_{letter}_mean"].item(), abs=1e-5)
            assert fake.std().item() == pytest.approx(arrays[f"fake_{letter}_std"].item(), rel=1e-4)
    assert_recorded(module.content_discriminator(contents["source"]).flatten(), arrays["content_dis"].flatten())
    norms = [scale.norm() for scale in module.discriminators["source"](images["source"])]
    assert_recorded(torch.stack(norms), arrays["dis_scales"])


def inputs(note: str, style_dim: int) -> tuple[dict[str, Tensor], Tensor]:
    """Images and attribute code, of the sizes and seeds that the note names."""
    shape = [int(side) for side in re.search(r"torch\.rand\(([\d,\s]+),", note)[1].split(",")]
    seeds = [int(seed) for seed in re.search(r"seed (\d+) for a and (\d+) for b", note).groups()]
    style = int(re.search(r"z: torch\.randn\(.*?seed (\d+)\)", note)[1])

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    images = (torch.rand(shape, generator=seeded(seed)) * 2 - 1 for seed in seeds)
    z = torch.randn(shape[0], style_dim, generator=seeded(style))
    return dict(zip(("source", "target"), images, strict=True)), z
