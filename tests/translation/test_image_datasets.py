"""Data sets of images: what they read, and one sentence about what they cannot."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from da_lightning.errors import DataError
from da_lightning.toy.shoes import render_shoe
from da_lightning.translation.datasets import AlignedImages, Digits, ImageDataset, ImageFolder, ToyShoes
from da_lightning.translation.datasets.digits import centred


def save(path: Path, size: tuple[int, int] = (6, 8), value: int = 100, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * len(Image.new(mode, (1, 1)).getbands())).save(path)


def names(dataset: ImageDataset) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def complaint(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_at_any_depth(tmp_path):
    for name in ("trainA/b/2.jpg", "trainA/1.PNG", "trainB/3.png"):
        save(tmp_path / name)
    (tmp_path / "trainA/notes.txt").touch()
    dataset = ImageFolder(tmp_path, "trainA")
    assert names(dataset) == ["1", "b/2"] and not dataset.labelled
    assert dataset[0].keys() == {"image"} and dataset[0]["image"].shape == (3, 6, 8)
    assert dataset[0]["image"].dtype == torch.uint8
    assert names(ImageFolder(str(tmp_path / "trainB"))) == ["3"]


def test_list_files_as_munit_and_unit_have_them(tmp_path):
    for name in ("1", "2", "my photo", "d/4"):
        save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.txt").write_text("./my photo.jpg\n./2.jpg\nd/4.jpg 7\nimages/1.jpg labels/1.png\n")
    dataset = ImageFolder(tmp_path, "images", list_file="lists/train.txt")
    assert names(dataset) == ["my photo", "2", "d/4", "1"]
    (tmp_path / "lists/train.txt").write_text("images/1.jpg labels/1.png\n")
    assert names(ImageFolder(tmp_path, list_file="lists/train.txt")) == ["images/1"]


def test_limits_are_spread_evenly(tmp_path):
    for number in range(10):
        save(tmp_path / f"{number}.png")
    assert names(ImageFolder(tmp_path, limit=3)) == ["0", "3", "6"]
    assert len(ImageFolder(tmp_path, limit=10)) == len(ImageFolder(tmp_path, limit=99)) == 10


def test_files_of_all_kinds(tmp_path):
    save(tmp_path / "grey.png", mode="L")
    save(tmp_path / "alpha.png", mode="RGBA")
    save(tmp_path / "print.jpg", mode="CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    dataset = ImageFolder(tmp_path)
    read = {dataset.name(index): dataset[index]["image"] for index in range(len(dataset))}
    assert all(image.dtype == torch.uint8 and len(image) == 3 for image in read.values())
    assert read["grey"].unique().tolist() == read["alpha"].unique().tolist() == [100]
    assert read["turned"].shape == (3, 8, 6)


def test_mistakes_in_folders(tmp_path):
    assert "does not exist" in complaint(ImageFolder, tmp_path, "trainA")
    (tmp_path / "trainA").mkdir()
    assert "has none" in complaint(ImageFolder, tmp_path, "trainA")
    save(tmp_path / "trainA/1.png")
    (tmp_path / "list.txt").write_text("2.png\n")
    assert "names 2.png" in complaint(ImageFolder, tmp_path, "trainA", list_file="list.txt")
    (tmp_path / "trainA/2.jpg").write_text("<html>")
    Image.new("I;16", (2, 2), 4000).save(tmp_path / "trainA/3.png")
    dataset = ImageFolder(tmp_path, "trainA")
    assert "2.jpg cannot be read" in complaint(dataset.__getitem__, 1)
    assert "convert it to 8 bits" in complaint(dataset.__getitem__, 2)


# -- aligned files -----------------------------------------------------------------------------------------------------


def save_pair(path: Path, left: int, right: int, width: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, 6), (left,) * 3)
    image.paste((right,) * 3, (width // 2, 0, width, 6))
    image.save(path)


def test_halves_of_aligned_files(tmp_path):
    for number in range(5):
        save_pair(tmp_path / f"train/{number}.png", number, 100 + number)
    values = {}
    for half in ("left", "right"):
        for part in ("all", "even", "odd"):
            dataset = AlignedImages(tmp_path, half, part=part)
            images = [dataset[index]["image"] for index in range(len(dataset))]
            assert {image.shape for image in images} == {(3, 6, 8)}
            values[half, part] = [int(value) for image in images for value in image.unique()]
    assert values["left", "all"] == [0, 1, 2, 3, 4] and values["left", "even"] == [0, 2, 4]
    assert values["right", "odd"] == [101, 103] and values["right", "all"] == [100, 101, 102, 103, 104]
    assert names(AlignedImages(tmp_path, "left", part="odd", limit=1)) == ["1"]


def test_mistakes_in_aligned_files(tmp_path):
    save_pair(tmp_path / "train/1.png", 0, 1, width=15)
    assert "1.png is 15 pixels wide" in complaint(AlignedImages(tmp_path, "left").__getitem__, 0)
    assert "val" in complaint(AlignedImages, tmp_path, "left", "val")
    assert len(AlignedImages(tmp_path, "right", part="odd")) == 0  # the data module tells of it


# -- digits ------------------------------------------------------------------------------------------------------------


def save_digits(path: Path, count: int = 5, shape: tuple[int, ...] = (8, 6), **arrays: np.ndarray) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    np.savez(path, **{"images": images, "labels": np.arange(count).astype(np.uint8), **arrays})


def test_digits_are_grey_or_colour(tmp_path):
    save_digits(tmp_path / "grey.npz", index=np.arange(5))
    save_digits(tmp_path / "colour.npz", shape=(8, 6, 3))
    grey, colour = Digits(tmp_path, "grey.npz"), Digits(tmp_path, "colour.npz")
    for dataset in (grey, colour):
        item = dataset[3]
        assert item.keys() == {"image", "label"} and item["label"] == 3 and dataset.labelled
        assert item["image"].shape == (3, 8, 6) and item["image"].dtype == torch.uint8
    assert torch.equal(grey[0]["image"][0], grey[0]["image"][2])
    assert torch.equal(colour[1]["image"], torch.tensor(colour.images[1]).permute(2, 0, 1))
    assert names(grey)[:2] == ["grey_000000", "grey_000001"]
    labels = next(iter(DataLoader(grey, 5)))["label"]
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 1, 2, 3, 4]


def test_unlabelled_digits_have_no_labels(tmp_path):
    np.savez(tmp_path / "digits.npz", images=np.zeros((5, 4, 4), np.uint8))
    dataset = Digits(tmp_path, "digits.npz", labelled=False)
    assert dataset[0].keys() == {"image"} and not dataset.labelled
    assert "no array labels but images" in complaint(Digits, tmp_path, "digits.npz")


def test_inverted_copies_and_limits(tmp_path):
    save_digits(tmp_path / "digits.npz", 10)
    dataset = Digits(tmp_path, "digits.npz", inverted_copies=True, limit=5)
    assert len(dataset) == 10 and len(set(names(dataset))) == 10
    assert torch.equal(dataset[6]["image"], 255 - dataset[1]["image"])
    assert dataset[6]["label"] == dataset[1]["label"] == 2


def test_centring_by_mass(tmp_path):
    image = np.zeros((16, 16), np.uint8)
    image[1:5, 9:15] = 200
    frame = centred(image, 28)
    rows, columns = np.nonzero(frame)
    assert frame.sum() == image.sum() and (rows.mean(), columns.mean()) == (13.5, 13.5)
    wide = np.zeros((16, 16), np.uint8)
    wide[8, :] = 10
    wide[8, 0] = 255  # the mass is far left, but no ink is cut off
    assert centred(wide, 18).sum() == wide.sum() and centred(wide, 18)[8, 2] == 255
    assert not centred(np.zeros((16, 16), np.uint8), 28).any()
    assert centred(np.full((4, 4, 3), 7, np.uint8), 6).sum() == 4 * 4 * 3 * 7
    save_digits(tmp_path / "digits.npz")
    assert Digits(tmp_path, "digits.npz", centred_in=9)[0]["image"].shape == (3, 9, 9)
    assert "6x8, larger than a frame of 7" in complaint(Digits, tmp_path, "digits.npz", centred_in=7)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": np.zeros((5, 8, 6), np.float32)}, "images in .* is float32 \\[5, 8, 6\\]"),
        ({"images": np.zeros((5, 48), np.uint8)}, "images in .* is uint8 \\[5, 48\\]"),
        ({"images": np.zeros((5, 8, 6, 4), np.uint8)}, "images in .* is uint8 \\[5, 8, 6, 4\\]"),
        ({"labels": np.arange(4)}, "save 5 integers from 0 to 9"),
        ({"labels": np.arange(5) + 6}, r"of \[6, 7, 8, 9, 10\]: save"),
        ({"labels": np.zeros(5)}, "labels in .* is float64"),
        ({"labels": np.array([None] * 5)}, "cannot be read as an .npz file"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, expected):
    save_digits(tmp_path / "digits.npz", **arrays)
    with pytest.raises(DataError, match=expected):
        Digits(tmp_path, "digits.npz")


def test_files_that_are_no_digits(tmp_path):
    assert "cannot be read" in complaint(Digits, tmp_path, "missing.npz")
    (tmp_path / "page.npz").write_text("<html>")
    assert "cannot be read" in complaint(Digits, tmp_path, "page.npz")
    save_digits(tmp_path / "whole.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    assert "cannot be read" in complaint(Digits, tmp_path, "half.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    assert "cannot be read" in complaint(Digits, tmp_path, "array.npy")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert "no array images and no array labels but x" in complaint(Digits, tmp_path, "other.npz")


# -- shoes -------------------------------------------------------------------------------------------------------------


def test_toy_shoes():
    dataset = ToyShoes("photo", 3, first_seed=5, size=(32, 40))
    assert names(dataset) == ["photo_000005", "photo_000006", "photo_000007"]
    expected = torch.from_numpy(render_shoe(6, "photo", (32, 40))).permute(2, 0, 1)
    assert torch.equal(dataset[1]["image"], expected) and dataset[1].keys() == {"image"}
