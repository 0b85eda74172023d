"""Masks whose colours say the class, as Blender, Unity, CVAT and the original CamVid write them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import command, run_folders, succeeded

from da_lightning.errors import DataError
from da_lightning.segmentation.datasets import ImageLabelFolder

ROAD, CAR, TRUCK, VOID = (128, 64, 128), (64, 0, 128), (64, 128, 192), (0, 0, 0)
CLASSES = {"num_classes": 2, "label_format": "colours", "colours": [[ROAD], [CAR, TRUCK]], "ignored_colours": [VOID]}
IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)  # of the four colours, in their order
WANTED = torch.tensor([[0, 1, 1, 255], [255, 1, 1, 0]], dtype=torch.uint8)


def mask(pixels: np.ndarray = IDS, mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(np.array([ROAD, CAR, TRUCK, VOID, (1, 2, 3)], np.uint8)[pixels])
    return image.convert(mode) if mode != "P" else image.quantize(8, dither=Image.Dither.NONE)


def folder(root: Path, label: Image.Image, name: str = "a.png") -> Path:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", label.size).save(root / "images" / "a.png")
    label.save(root / "labels" / name)
    return root


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_classes(mode: str, tmp_path: Path) -> None:
    label = ImageLabelFolder(folder(tmp_path, mask(mode=mode)), **CLASSES)[0]["label"]
    assert label.dtype == torch.uint8 and torch.equal(label, WANTED)


def test_an_unknown_colour_is_named_with_its_share_and_file(tmp_path: Path) -> None:
    pixels = IDS.copy()
    pixels[0, :2] = 4
    data = ImageLabelFolder(folder(tmp_path, mask(pixels)), **CLASSES)
    with pytest.raises(DataError, match=rf"{tmp_path}/labels/a\.png .*\[1, 2, 3\].* 25\.0%"):
        data[0]


@pytest.mark.parametrize(
    ("name", "mode", "message"), [("a.jpg", "RGB", "JPEG.*PNG"), ("a.png", "L", "mode L.*label_format=ids")]
)
def test_masks_without_exact_colours_are_refused(name: str, mode: str, message: str, tmp_path: Path) -> None:
    data = ImageLabelFolder(folder(tmp_path, mask(mode=mode), name), **CLASSES)
    with pytest.raises(DataError, match=rf"{name} .*{message}"):
        data[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": [[ROAD], [CAR, ROAD]]}, r"\[128, 64, 128\] .*class 0 .*class 1"),
        ({"ignored_colours": [CAR]}, r"\[64, 0, 128\] .*class 1 .*ignored"),
        ({"colours": [[ROAD]]}, "each of 2 classes.* 1"),
        ({"colours": [[ROAD], []]}, "each of 2 classes.* 1"),
        ({"colours": None}, "each of 2 classes.* 0"),
        ({"label_format": "ids", "ids": {}}, "ids.*label_format=colours"),
    ],
)
def test_colours_that_do_not_fit(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        ImageLabelFolder(folder(tmp_path, mask()), **{**CLASSES, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_on_ones_own_masks(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 4, (32, 48))
    for name in ("mine", "theirs"):
        folder(tmp_path / name, mask(pixels))
    (tmp_path / "classes.yaml").write_text(
        "classes:\n  road: {color: [128, 64, 128]}\n"
        "  car: {color: [64, 0, 128], colors: [[64, 0, 128], [64, 128, 192]]}\nignore_colors: [[0, 0, 0]]\n"
    )
    options = ["data.class_map=classes.yaml", "data.source.label_format=colours", "data.source.root=mine"]
    options += ["data.target.root=theirs", "data.tests.target.root=theirs", "data.image_size=[32,48]", "logger=csv"]
    options += ["data.batch_size=1", "method.max_iters=2", "method.network.width=8", "trainer=cpu"]
    succeeded(command(["method=segmentation_source_only", "data=image_label_folders_tested", *options], tmp_path))
    (run,) = run_folders(tmp_path)
    assert "target/iou/car" in (run / "metrics.json").read_text()
    refused = command(
        ["method=segmentation_source_only", "data=image_label_folders", *options[:4], "data.source.label_format=ids"],
        tmp_path,
    )
    assert refused.returncode != 0 and "label_format=colours" in refused.stderr + refused.stdout
