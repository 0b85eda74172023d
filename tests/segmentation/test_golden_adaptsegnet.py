"""Networks against outputs of the official AdaptSegNet code."""

from pathlib import Path

import pytest
import torch
from golden_files import filled_state, golden_files, read_golden
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from da_lightning.segmentation.networks.deeplab import DeepLabV2
from da_lightning.segmentation.networks.discriminator import OutputDiscriminator
from da_lightning.segmentation.networks.weights import load_weights

FILES = golden_files("adaptsegnet*.npz")
with_files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def assert_recorded(actual: Tensor, recorded: Tensor) -> None:
    """Within 1e-4 of each value, and of the largest where values cancel."""
    torch.testing.assert_close(actual, recorded, rtol=1e-4, atol=1e-5 * recorded.abs().max().item())


@with_files
def test_both_heads_equal_the_official_network(path: Path, tmp_path: Path) -> None:
    arrays, meta = read_golden(path)
    shapes = meta["deeplab_keys"]
    torch.save(filled_state(shapes), tmp_path / "official.pth")
    network = DeepLabV2(shapes["layer6.conv2d_list.0.weight"][0], backbone="resnet101_caffe").eval()
    load_weights(network, tmp_path / "official.pth")
    network.normalise = nn.Identity()  # the recorded image is in the official input space
    with torch.no_grad():
        main, auxiliary = (level.logits for level in network(arrays["image"]))
    assert_recorded(main, arrays["logits_layer6"])
    assert_recorded(auxiliary, arrays["logits_layer5"])


@with_files
def test_discriminator_and_its_losses_equal_the_official_ones(path: Path) -> None:
    arrays, meta = read_golden(path)
    width, num_classes = meta["discriminator_keys"]["conv1.weight"][:2]
    discriminator = OutputDiscriminator(num_classes, width)
    discriminator.load_state_dict(filled_state(meta["discriminator_keys"]))
    with torch.no_grad():
        logits = discriminator(arrays["dis_in"])
    assert_recorded(logits, arrays["dis_out"])
    for domain, label in (("source", 0.0), ("target", 1.0)):
        loss = binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
        assert loss.item() == pytest.approx(arrays[f"dis_loss_{domain}"].item(), rel=1e-4)
