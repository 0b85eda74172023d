from pathlib import Path

import pytest
import torch
from PIL import Image

from da_lightning.data.folders import check_pairs, find_images, read_list, select_images
from da_lightning.data.images import read_image
from da_lightning.errors import DataError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def complaint(function, *arguments) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_find_images_names_sorts_and_skips(tmp_path):
    names = "b/2_rgb.PNG", "a_rgb.jpg", "b/1_rgb.png", "b/1_ids.png", "._a_rgb.jpg", "n_rgb.txt", ".copies/1_rgb.png"
    touch(*(tmp_path / "set" / name for name in names))
    found = find_images(tmp_path, "set", "_rgb")
    assert list(found) == ["a", "b/1", "b/2"]
    assert found["b/2"] == tmp_path / "set/b/2_rgb.PNG"
    assert list(find_images(tmp_path / "set", "b")) == ["1_ids", "1_rgb", "2_rgb"]


def test_find_images_goes_through_links(tmp_path):
    touch(tmp_path / "disk/city/1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/city").symlink_to(tmp_path / "disk/city", target_is_directory=True)
    assert list(find_images(tmp_path, "set")) == ["city/1"]


def test_missing_folder(tmp_path):
    touch(*(tmp_path / f"{i}.zip" for i in range(7)))
    message = complaint(find_images, tmp_path, "images/train")
    assert str(tmp_path / "images/train") in message and "does not exist" in message
    assert f"{tmp_path} holds 0.zip, 1.zip, 2.zip, 3.zip, 4.zip and 2 more" in message
    assert "let root be the folder that holds images/train" in message


def test_empty_folder(tmp_path):
    touch(tmp_path / "images/readme.txt", tmp_path / "images/a.png")
    message = complaint(find_images, tmp_path, "images", "_rgb")
    assert "*_rgb.png" in message and "holds a.png, readme.txt" in message


def test_two_files_of_one_name(tmp_path):
    touch(tmp_path / "a.png", tmp_path / "a.jpg")
    message = complaint(find_images, tmp_path)
    assert "a.png" in message and "a.jpg" in message


def test_check_pairs_in_both_directions():
    images, labels = {n: Path(f"i/{n}.jpg") for n in "abc"}, {n: Path(f"l/{n}.png") for n in "bc"}
    check_pairs(labels, labels)
    assert "1 of 3 images have no label" in (message := complaint(check_pairs, images, labels)) and "i/a.jpg" in message
    assert "1 of 3 labels have no image" in (message := complaint(check_pairs, labels, images)) and "i/a.jpg" in message


def test_read_list_columns_and_places(tmp_path):
    path = tmp_path / "train.lst"
    path.write_bytes(b"\xef\xbb\xbfa.png b.png\r\n\r\n  c.png\nmy car.png\tlabel.png\n")
    assert read_list(path) == [
        (f"Line 1 of {path}", ["a.png", "b.png"]),
        (f"Line 3 of {path}", ["c.png"]),
        (f"Line 4 of {path}", ["my car.png", "label.png"]),
    ]


def test_read_list_refuses_what_is_no_list(tmp_path):
    touch(tmp_path / "empty.txt")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    assert "empty.txt names nothing" in complaint(read_list, tmp_path / "empty.txt")
    assert "picture.txt" in complaint(read_list, tmp_path / "picture.txt")
    message = complaint(read_list, tmp_path / "trian.txt")
    assert "trian.txt" in message and "holds empty.txt, picture.txt" in message


def test_select_images_by_any_usual_form(tmp_path):
    found = {n: Path(n) for n in ("city/1", "city/2", "city/3", "x.1")}
    path = tmp_path / "list.txt"
    path.write_text("images/train/city/3_rgb.png labels/3.png\ncity/1_rgb.png\ncity/2\nx.1\n")
    assert list(select_images(found, path, "images/train", "_rgb")) == ["city/3", "city/1", "city/2", "x.1"]


def test_select_images_names_the_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.png\nb.png\n")
    message = complaint(select_images, {"a": Path("i/a.png")}, path)
    assert f"Line 2 of {path} names b.png" in message and "i/a.png" in message
    path.write_text("a.png\n\na.png\n")
    assert f"Line 3 of {path} names a.png a second time" in complaint(select_images, {"a": Path("a.png")}, path)


COLOURS = {"L": 90, "P": 1, "RGBA": (90, 90, 90, 0), "LA": (90, 0), "1": 1}


@pytest.mark.parametrize("mode", COLOURS)
def test_read_image_is_rgb(tmp_path, mode):
    image = Image.new(mode, (4, 2), COLOURS[mode])
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == torch.uint8 and read.shape == (3, 2, 4)
    assert read.unique().tolist() == [255 if mode == "1" else 90]


def test_read_image_turns_upright(tmp_path):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    image.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert read.shape == (3, 4, 2)
    assert read[0].nonzero().tolist() == [[0, 1]]


def test_unreadable_images_are_named(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:700])
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    Image.new("I;16", (2, 2), 4000).save(tmp_path / "deep.png")
    for name in ("half.jpg", "half.png", "page.jpg", "deep.png", "missing.png"):
        assert str(tmp_path / name) in complaint(read_image, tmp_path / name)
