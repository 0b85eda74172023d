"""Whole images by windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import built, trainer
from torch import Tensor, nn

from da_lightning.data.images import read_image
from da_lightning.data.inputs import find_inputs, with_shorter_side
from da_lightning.errors import UserError
from da_lightning.export import of_size, write
from da_lightning.predict import load_method
from da_lightning.segmentation.networks import Level, LightNet, SegmentationNetwork
from da_lightning.segmentation.networks.sliding import Windows
from da_lightning.segmentation.predict import Segment


class Shade(SegmentationNetwork):
    """Logits at stride 2 that are the image's colours, counted in ``seen``."""

    strides, channels = (2,), (3,)

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.seen: list[int] = []

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(len(image))
        return (nn.functional.avg_pool2d(image, 2),)

    def decode(self, pyramid: tuple[Tensor, ...]) -> tuple[Level, ...]:
        return (Level(pyramid[0]),)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"backbone": list(self.parameters()), "heads": []}


@pytest.mark.parametrize(
    ("size", "overlap", "image", "places"),
    [
        ((4, 4), (0, 0), (4, 4), [(0, 0)]),
        ((4, 4), (2, 2), (4, 8), [(0, 0), (0, 2), (0, 4)]),
        ((4, 4), (0, 0), (5, 4), [(0, 0), (1, 0)]),
        ((1024, 1024), (512, 512), (1024, 2048), [(0, 0), (0, 512), (0, 1024)]),  # HRDA
        ((4, 4), (3, 0), (6, 9), [(t, left) for t in (0, 1, 2) for left in (0, 4, 5)]),
    ],
)
def test_windows_cover_the_image_and_end_with_it(size: Any, overlap: Any, image: Any, places: Any) -> None:
    assert Windows(size, overlap).places(*image) == places


@torch.no_grad()
@pytest.mark.parametrize(("size", "overlap"), [((8, 8), (0, 0)), ((8, 12), (4, 6)), ((10, 9), (3, 8))])
def test_a_constant_network_gives_a_constant(size: tuple[int, int], overlap: tuple[int, int]) -> None:
    network = Shade().eval()
    network.windows = Windows(size, overlap)
    image = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 21, 26)
    torch.testing.assert_close(network.infer(image), image)


@torch.no_grad()
def test_each_pixel_is_the_mean_of_the_windows_that_cover_it() -> None:
    torch.manual_seed(0)
    network = LightNet(3, width=4).eval()
    image = torch.rand(1, 3, 40, 48)
    network.windows = Windows((32, 32), (8, 16))
    total, count = torch.zeros(1, 3, 40, 48), torch.zeros(40, 48)
    for top in (0, 8):
        for left in (0, 16):
            logits = network(image[..., top : top + 32, left : left + 32])[0].logits
            total[..., top : top + 32, left : left + 32] += nn.functional.interpolate(
                logits, size=(32, 32), mode="bilinear", align_corners=True
            )
            count[top : top + 32, left : left + 32] += 1
    assert count.min() == 1 and count.max() == 4
    torch.testing.assert_close(network.infer(image), total / count)


@torch.no_grad()
def test_windows_go_in_batches_but_for_statistics_that_belong_together() -> None:
    network = Shade().eval()
    network.windows = Windows((8, 8), (0, 0), batch=3)
    image = torch.rand(2, 3, 16, 32)
    network.infer(image)
    assert network.seen == [6, 6, 4] and not network.training
    network.seen.clear()
    network.train().infer(image)
    assert network.seen == [16] and network.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [8, 8], "overlap": [8, 0]}, r"method\.windows\.overlap .*\[8, 8\].*\[8, 0\]"),
        ({"size": [8, 0]}, r"method\.windows\.size"),
        ({"size": [8, 8], "stride": 4}, r"method\.windows\.stride .*overlap"),
        ({}, r"method\.windows\.size must be set"),
        ({"size": [40, 40]}, r"method\.windows\.size=\[40, 40\].* 32x48"),
    ],
)
def test_windows_that_do_not_fit_are_refused_before_training(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        module, data = built("segmentation_source_only", f"method.windows={options}".replace("'", "").replace(" ", ""))
        trainer(tmp_path).fit(module, data)


def test_a_run_tests_predicts_and_exports_by_windows(tmp_path: Path) -> None:
    module, data = built("segmentation_source_only", "method.windows={size:[32,32],overlap:[0,16]}")
    fit = trainer(tmp_path)
    fit.fit(module, data)
    scores = fit.test(module, data, verbose=False)[0]
    again = load_method(tmp_path / "checkpoints" / "last.ckpt").eval()
    assert again.network.windows == Windows((32, 32), (0, 16))
    assert scores == fit.test(again, data, verbose=False)[0]
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        assert again.infer(image).shape[-2:] == (32, 48)
        assert not torch.allclose(again.infer(image), whole(again, image), atol=1e-3)
    with pytest.raises(UserError, match="one size.*windows.*height and width"):
        write(again.exportable(), tmp_path / "any.pt2", "method")
    assert write(of_size(again.exportable(), 32, 48), tmp_path / "one.pt2", "method") <= 1e-4


def test_a_crop_smaller_than_a_window_is_seen_whole() -> None:
    """Pictures of training samples are drawn of crops."""
    module, _ = built("segmentation_source_only", "method.windows={size:[32,32],overlap:[0,16]}")
    image = torch.rand(1, 3, 24, 32)
    assert torch.equal(module.eval()(image), whole(module, image))
    assert len(module.pictures({"image": image}, "target")) == 2


def test_statistics_of_the_target_are_those_of_its_windows(tmp_path: Path) -> None:
    seen: list[int] = []
    options = ("method.windows={size:[32,16],overlap:[0,0]}", "method.target_statistics=true", "method.max_iters=2")
    module, data = built("segmentation_source_only", *options)
    module.network.stem.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].shape[-1]))
    trainer(tmp_path).fit(module, data)
    assert set(seen[-3:]) == {16}  # 6 images in batches of 2, at the end


def whole(module: Any, image: Tensor) -> Tensor:
    windows, module.network.windows = module.network.windows, None
    logits = module(image)
    module.network.windows = windows
    return logits


@torch.no_grad()
def test_predictions_at_another_size_are_upsampled_once(tmp_path: Path) -> None:
    """To the size that the network saw, and from there to the image's, would blur twice."""
    module, _ = built("segmentation_source_only")
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (60, 90, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Segment(image_size=32)(module.eval(), find_inputs(tmp_path / "image.png", None, None), tmp_path / "out")
    seen = with_shorter_side(read_image(tmp_path / "image.png"), 32)[None] / 255
    logits = nn.functional.interpolate(
        module.network.infer(seen), size=(60, 90), mode="bilinear", align_corners=module.align_corners
    )
    written = torch.from_numpy(np.array(Image.open(tmp_path / "out" / "labels" / "image.png")))
    assert torch.equal(written.long(), logits.argmax(1)[0])
