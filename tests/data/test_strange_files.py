"""Folders and images as people really have them: links in circles, pipes, damaged EXIF, cut and flipped bytes."""

import io
import logging
import os
import random
import re
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from da_lightning.data import folders
from da_lightning.data.folders import find_images, read_list
from da_lightning.data.images import open_image, read_image, upright_size
from da_lightning.data.labels import read_ids
from da_lightning.errors import DataError, UserError


@pytest.fixture(autouse=True)
def fresh_warnings() -> None:
    folders._warn.cache_clear()


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def complaint(function: Callable, *arguments: object) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def noise(size: tuple[int, int] = (20, 14), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "L": 0, "RGBA": 4}[mode]
    shape = (size[1], size[0], channels) if channels else size[::-1]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


# -- folders -----------------------------------------------------------------------------------------------------------


def test_each_real_folder_is_read_once(tmp_path, caplog):
    touch(tmp_path / "set/images/a/1.png", tmp_path / "set/images/b/2.png", tmp_path / "set/labels/a/1.png")
    images = tmp_path / "set/images"
    links = {"up": "..", "a/here": ".", "a/far": str(tmp_path), "b/again": "../a", "a_first": "b", "b/root": "/"}
    for name, to in links.items():
        (images / name).symlink_to(to, target_is_directory=True)
    with caplog.at_level(logging.WARNING):
        assert list(find_images(tmp_path / "set", "images")) == ["a/1", "b/2"]
    assert f"{len(links)} links in {images} lead to folders above it" in caplog.text
    (images / "out").symlink_to(tmp_path / "set/labels")
    (images / "out_again").symlink_to(tmp_path / "set/labels")
    assert list(find_images(tmp_path / "set", "images")) == ["a/1", "b/2", "out/a/1"]


def test_two_links_to_a_parent_end(tmp_path):
    touch(tmp_path / "images/1.png")
    for name in ("x", "y"):
        (tmp_path / "images" / name).symlink_to("..", target_is_directory=True)
    assert list(find_images(tmp_path, "images")) == ["1"]


def test_the_folder_itself_may_be_a_link(tmp_path):
    touch(tmp_path / "disk/1.png")
    (tmp_path / "images").symlink_to("disk")
    assert list(find_images(tmp_path, "images")) == ["1"]


@pytest.mark.parametrize(("name", "to"), [("x.png", "nowhere.png"), ("city", "/mnt/gone"), ("x.png", "x.png")])
def test_links_that_lead_nowhere(tmp_path, name, to):
    touch(tmp_path / "1.png")
    (tmp_path / name).symlink_to(to)
    assert f"{tmp_path / name} cannot be " in complaint(find_images, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / "notes.txt").symlink_to("nowhere.txt")  # what is no picture does not matter
    assert list(find_images(tmp_path)) == ["1"]


SPECIAL = {
    "a named pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_opened(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    SPECIAL[kind](Path("x.png"))
    touch(Path("y.png"))
    assert f"it is {kind}, not a file" in complaint(find_images, Path())
    for read in (read_image, read_ids, read_list):
        assert f"it is {kind}, not a file" in complaint(read, Path("x.png"))


def test_what_a_kernel_makes_up_is_no_image(tmp_path):
    assert "(it is empty)" in complaint(read_image, Path("/proc/self/status"))
    assert "it is a folder, not a file" in complaint(read_image, tmp_path)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder to work in without root's rights."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own may be entered by its user alone
    folder.chmod(0o777)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_folders_and_files_that_may_not_be_read(as_nobody):
    """A subfolder is not skipped, and nothing is called damaged."""
    noise().save(as_nobody / "1.png")
    touch(as_nobody / "closed/2.png")
    (as_nobody / "closed").chmod(0)
    (as_nobody / "1.png").chmod(0)
    closed = as_nobody / "closed"
    assert complaint(find_images, as_nobody).startswith(f"{closed} cannot be opened (Permission denied)")
    assert complaint(find_images, as_nobody, "closed/in").startswith(
        f"{closed}/in cannot be opened (Permission denied)"
    )
    assert "1.png cannot be read as an image (it may not be read by this user" in complaint(
        read_image, as_nobody / "1.png"
    )
    for read in (read_image, read_ids, read_list):
        assert "permission denied" in complaint(read, closed / "2.png")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("set.zip", b"PK\x03\x04...", "is a zip archive, not a folder; unpack it"),
        ("set.tar.gz", b"\x1f\x8b...", "is a gzip archive, not a folder; unpack it"),
        ("photo.jpg", b"\xff\xd8\xff...", "is a JPEG image, not a folder"),
        ("notes.txt", b"words", "is a file, not a folder"),
    ],
)
def test_a_root_that_is_a_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    for folder in ("", "images/train"):
        assert words in complaint(find_images, tmp_path / name, folder)
    assert "not a folder" in complaint(read_list, tmp_path / name / "train.txt")


def test_pictures_in_other_formats_are_counted(tmp_path, caplog):
    touch(*(tmp_path / name for name in ("1.png", "2.heic", "3.HEIC", "deep/4.tga", "5.svg", "6.txt", ".7.heic")))
    with caplog.at_level(logging.WARNING):
        assert list(find_images(tmp_path)) == ["1"]
    assert "also holds 2 .heic, 1 .svg, 1 .tga, which are passed over" in caplog.text
    (tmp_path / "1.png").unlink()
    assert "has none but 2 .heic, 1 .svg, 1 .tga, which are not read" in complaint(find_images, tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".JFIF", ".jpe", ".avif", ".pnm", ".PGM", ".TIF"])
def test_formats_that_pillow_reads(tmp_path, suffix):
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".pgm": "PPM", ".tif": "TIFF"}
    kind = kinds.get(suffix.lower(), suffix[1:].upper())
    image = noise(mode="L" if suffix == ".PGM" else "RGB")
    image.save(tmp_path / f"a{suffix}", kind, **({"save_all": True, "append_images": [image]} if kind == "GIF" else {}))
    assert list(find_images(tmp_path)) == ["a"]
    assert read_image(tmp_path / f"a{suffix}").shape == (3, 14, 20)


def test_files_that_only_look_like_images_say_what_they_are(tmp_path):
    for content, kind in {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a Git LFS pointer",
        b"PK\x03\x04": "a zip archive",
        b"<!DOCTYPE html><html>": "a web page",
        b"\0\0\0\x18ftypheic": "a HEIC image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "a PostScript document",
        b"noise": "of no known format",
    }.items():
        (tmp_path / "x.png").write_bytes(content)
        assert f"(it is {kind}" in complaint(read_image, tmp_path / "x.png")


def test_lists_of_other_people(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("a.png\r\nb.png\r\n".encode("utf-16"))  # Windows' PowerShell
    assert [columns for _, columns in read_list(path)] == [["a.png"], ["b.png"]]
    path.write_bytes(b"caf\xe9.png\nx\x0cy.png l.png\n")
    assert [columns for _, columns in read_list(path)] == [["caf\udce9.png"], ["x\x0cy.png", "l.png"]]
    path.write_bytes(b"a.png\0")
    assert "zero bytes" in complaint(read_list, path)


# -- large -------------------------------------------------------------------------------------------------------------


def empty_png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = b"\0\0\0\x0d" + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT" + b"\0" * 4
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_the_largest_image(tmp_path, monkeypatch):
    noise((1000, 1000), "L").save(tmp_path / "one.png")
    (tmp_path / "many.png").write_bytes(empty_png(14000, 14000))
    message = complaint(read_image, tmp_path / "many.png")
    assert "has 196.0 megapixels, and the limit is 179.0" in message and "DA_MAX_MEGAPIXELS=197" in message
    monkeypatch.setenv("DA_MAX_MEGAPIXELS", "197")
    with open_image(tmp_path / "many.png") as image:
        assert image.size == (14000, 14000)
    monkeypatch.setenv("DA_MAX_MEGAPIXELS", "0.5")
    assert "has 1.0 megapixels, and the limit is 0.5" in complaint(read_image, tmp_path / "one.png")
    for wrong in ("many", "-1", "0", "1e999", "nan"):
        monkeypatch.setenv("DA_MAX_MEGAPIXELS", wrong)
        with pytest.raises(UserError, match=f"DA_MAX_MEGAPIXELS={wrong} "):
            read_image(tmp_path / "one.png")


# -- EXIF --------------------------------------------------------------------------------------------------------------


def exif(*entries: tuple[int, int, bytes]) -> bytes:
    """EXIF with entries of (tag, type, value of up to four bytes)."""
    body = b"".join(struct.pack(">HHI4s", tag, kind, 1, value) for tag, kind, value in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + b"\0\0\0\0"


TURNED = (0x0112, 3, b"\0\x06")


@pytest.mark.parametrize(
    ("content", "is_turned"),
    [
        (exif(TURNED), True),
        (exif(TURNED, (0x011A, 2, b"72\0\0")), True),  # XResolution as text
        (exif((0x011A, 2, b"72\0\0"), TURNED), True),
        (exif(TURNED, (0x8769, 4, b"\xff\xff\xff\xff")), True),  # a second table that is not there
        (exif(TURNED)[:-4] + b"\xff\xff\xff\xff", True),
        (exif((0x0112, 3, b"\0\x09")), False),
        (exif((0x0112, 2, b"up\0\0")), False),
        (exif((0x0112, 5, b"\0\0\0\0")), False),
        (exif(TURNED)[:12], False),
        (b"Exif\0\0nonsense", False),
        (b"Exif\0\0", False),
    ],
)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_damaged_exif(tmp_path, content, is_turned, kind):
    noise().save(tmp_path / f"a.{kind}", exif=content, quality=100)
    shape = (3, 20, 14) if is_turned else (3, 14, 20)
    assert read_image(tmp_path / f"a.{kind}").shape == shape
    with open_image(tmp_path / f"a.{kind}") as image:
        assert upright_size(image) == (shape[2], shape[1])


# -- damage ------------------------------------------------------------------------------------------------------------


def whole_files() -> dict[str, bytes]:
    """Small files of each format, with EXIF and palettes."""
    files = {}
    for kind, image, options in [
        ("jpg", noise(), {"exif": exif(TURNED, (0x011A, 5, b"\0\0\0\x40"))}),
        ("png", noise(mode="RGBA"), {"exif": exif(TURNED)}),
        ("palette.png", noise().quantize(16), {"bits": 4}),
        ("webp", noise(), {"exif": exif(TURNED)}),
        ("bmp", noise(), {}),
        ("palette.bmp", noise().quantize(200), {}),
        ("ppm", noise(), {}),
        ("pgm", noise(mode="L"), {}),
        ("gif", noise().quantize(30), {}),
        ("tif", noise(), {}),
        ("lzw.tif", noise(mode="L"), {"compression": "tiff_lzw"}),
        ("turned.tif", noise(), {"tiffinfo": {274: 6}}),
        *([("avif", noise(), {})] if ".avif" in folders.IMAGE_SUFFIXES else []),
    ]:
        suffix = kind.rpartition(".")[2]
        image.save(
            out := io.BytesIO(), {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper()), **options
        )
        files[kind] = out.getvalue()
    return files


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Cut, or with bytes flipped, doubled, or set to what a length is hurt most by; mostly in the head."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(min(len(damaged), draw.choice((64, 400, 10**9))))
        match draw.randrange(5):
            case 0:
                damaged[place] ^= 1 << draw.randrange(8)
            case 1:
                damaged[place : place + 4] = draw.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
            case 2:
                del damaged[place : place + draw.randrange(1, 40)]
            case 3:
                damaged[place:place] = damaged[place : place + draw.randrange(1, 40)]
            case _:
                damaged[place] = draw.randrange(256)
        damaged = damaged or bytearray(b"\0")
    return bytes(damaged[: draw.randrange(1, len(damaged) + 1)] if draw.random() < 0.2 else damaged)


def read_damaged(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Read ``count`` damaged files of each format in every way; anything but a sentence that names the file fails."""
    draw = random.Random(seed)
    seen = dict.fromkeys(("read", "refused"), 0)

    def size(path: Path) -> None:
        with open_image(path) as image:
            upright_size(image)

    for kind, content in whole_files().items():
        for _ in range(count):
            path = folder / f"a.{kind}"
            path.write_bytes(mutated(content, draw))
            for read in (read_image, read_ids, size):
                try:
                    read(path)
                    seen["read"] += 1
                except DataError as error:
                    seen["refused"] += 1
                    assert str(path) in str(error) and "\n" not in str(error) and str(error).endswith("."), error
    return seen


def test_damaged_images_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DA_MAX_MEGAPIXELS", "4")  # so that damaged sizes cost no time
    seen = read_damaged(tmp_path, count=40, seed=0)
    assert min(seen.values()) > 200, seen


@pytest.mark.parametrize("error", [TypeError, struct.error, ZeroDivisionError, KeyError, IndexError, OverflowError,
                                   MemoryError, RecursionError, RuntimeError, AssertionError])  # fmt: skip
def test_any_exception_of_the_image_library_names_the_file(tmp_path, monkeypatch, error):
    noise().save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise error("first\nsecond")

    monkeypatch.setattr(Image.Image, "convert", fail)
    assert re.match(re.escape(str(tmp_path / "a.png")), complaint(read_image, tmp_path / "a.png"))
