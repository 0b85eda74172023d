"""ECN's network, its loss and its memory against outputs of the official code."""

from pathlib import Path

import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.reid.ecn import ECN
from da_lightning.reid.exemplar_memory import ExemplarMemory

FILES = golden_files("ecn*.npz")
with_files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def assert_recorded(actual: Tensor, recorded: Tensor, relative: float = 1e-4) -> None:
    """Within ``relative`` of each value, and a tenth of it of the largest where values cancel."""
    torch.testing.assert_close(actual, recorded, rtol=relative, atol=0.1 * relative * recorded.abs().max().item())


@with_files
def test_an_imported_checkpoint_gives_the_official_outputs(path: Path, tmp_path: Path) -> None:
    arrays, meta = read_golden(path)
    size, persons = meta["network"]["num_features"], meta["network"]["num_classes"]
    bank = torch.randn(5, size)
    content = {"state_dict": filled_state(meta["keys"]), "state_dict_inv": {"em": bank}, "epoch": 60}
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    module = ECN(
        backbone={
            "_target_": "da_lightning.reid.networks.ResNetBackbone",
            "model": f"resnet{meta['network']['depth']}",
        },
        optimizer={"name": "SGD", "lr": 0.1},
        max_iters=1,
        embedding_size=size,
        dropout=meta["network"]["dropout"],
        neighbours=2,
        num_persons=persons,
        target_size=len(bank),
        init_from=str(tmp_path / "checkpoint.pth.tar"),
    ).eval()
    module.backbone.normalise = nn.Identity()  # the recorded image is normalised
    with torch.no_grad():
        assert_recorded(F.normalize(module.embed(arrays["image"])), arrays["pool5"])
        assert_recorded(module.target_features(arrays["image"]), arrays["tgt_feat"])
        assert_recorded(module.person_logits(arrays["image"]), arrays["source_logits"])
    assert torch.equal(module.memory.bank, bank)


@with_files
def test_losses_gradients_and_bank_equal_the_recorded_steps(path: Path) -> None:
    arrays, meta = read_golden(path)
    settings = meta["memory"]
    alpha_step = float(settings["alpha"].removesuffix("*epoch"))
    first = int(settings["neighbourhood_from"].removeprefix("epoch>")) + 1
    memory = ExemplarMemory(*arrays["mem/init"].shape, settings["beta"], settings["knn"])
    memory.bank.copy_(arrays["mem/init"])
    steps = sorted(
        {name.split("/")[1] for name in arrays if name.startswith("mem/step")}, key=lambda name: int(name[4:])
    )
    assert steps
    for step in sorted(steps, key=lambda name: int(name[4:])):
        recorded = {name: arrays[f"mem/{step}/{name}"] for name in ("features", "index", "epoch", "loss", "grad")}
        v, epoch = nn.Parameter(recorded["features"]), int(recorded["epoch"])
        loss, _ = memory.loss(v, recorded["index"], epoch >= first)
        loss.backward()
        memory.update(v, recorded["index"], alpha_step * epoch)
        assert loss.item() == pytest.approx(recorded["loss"].item(), rel=1e-6)
        assert_recorded(v.grad, recorded["grad"], 1e-5)
        torch.testing.assert_close(memory.bank, arrays[f"mem/{step}/memory_after"], rtol=0, atol=1e-6)
