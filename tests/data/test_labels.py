"""Ids of label files that were written byte by byte, without Pillow."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from da_lightning.data.images import read_image
from da_lightning.data.inputs import batches, copy_label, find_inputs
from da_lightning.data.labels import read_ids
from da_lightning.errors import DataError

HEIGHT, WIDTH = 5, 7
GRAYS = bytes(level for level in range(256) for _ in range(3))


def ids_of(bits: int) -> np.ndarray:
    """Every number of so many bits, as far as there is room for them, and the largest."""
    ids = np.arange(HEIGHT * WIDTH, dtype=np.int64).reshape(HEIGHT, WIDTH) % 2**bits
    ids[0, :2] = 2**bits - 1, 0
    return ids


def packed(ids: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """Rows of pixels, the first in the highest bits."""
    if bits >= 8:
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in ids]
    digits = ((ids[..., None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)
    return [row.tobytes() for row in np.packbits(digits.reshape(len(ids), -1), axis=1)]


def png(ids: np.ndarray, bits: int, colour: int = 0, palette: bytes = b"") -> bytes:
    """A PNG file: ``colour`` 0 is gray, 3 a palette, 4 gray and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    if colour == 4:
        ids = np.stack([ids, np.full_like(ids, 3)], -1).reshape(len(ids), -1)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in packed(ids, bits)))
    parts = [chunk(b"IHDR", head), *([chunk(b"PLTE", palette)] if palette else []), chunk(b"IDAT", content)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def tiff(ids: np.ndarray, bits: int, order: str = "<", photometric: int = 1, signed: bool = False) -> bytes:
    """An uncompressed TIFF file; ``photometric`` 0: white is zero, 1: black is zero, 3: palette."""
    pixels = b"".join(packed(ids, bits, order))
    colours = list(range(3 * 2**bits)) if photometric == 3 else []
    start = 8 + len(pixels) + len(pixels) % 2
    tags = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, HEIGHT), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    if colours:
        tags.append((320, 3, len(colours), start))
    if signed:
        tags.append((339, 3, 1, 2))
    values = struct.pack(f"{order}{len(colours)}H", *colours)
    out = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start + len(values))
    out += pixels + b"\0" * (len(pixels) % 2) + values + struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        body = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        out += struct.pack(f"{order}HHI", tag, kind, count) + body
    return out + b"\0\0\0\0"


def pgm(ids: np.ndarray, largest: int, plain: bool = False) -> bytes:
    head = f"P{2 if plain else 5}\n# drawn by hand\n{WIDTH} {HEIGHT}\n{largest}\n".encode()
    if plain:
        return head + "\n".join(" ".join(map(str, row)) for row in ids).encode() + b"\n"
    return head + ids.astype(">u2" if largest > 255 else np.uint8).tobytes()


def pbm(ids: np.ndarray, plain: bool = False) -> bytes:
    head = f"P{1 if plain else 4}\n{WIDTH} {HEIGHT}\n".encode()
    return head + ("\n".join(" ".join(map(str, r)) for r in ids).encode() if plain else b"".join(packed(ids, 1)))


def bmp(ids: np.ndarray, bits: int, palette: bytes) -> bytes:
    """``palette``: RGB."""
    table = b"".join(palette[i : i + 3][::-1] + b"\0" for i in range(0, len(palette), 3))
    rows = b"".join(row + b"\0" * (-len(row) % 4) for row in packed(ids, bits)[::-1])
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, 0, len(rows), 0, 0, len(palette) // 3, 0)
    offset = 14 + len(head) + len(table)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + head + table + rows


def colours(bits: int) -> bytes:
    return bytes((37 * i + 11) % 256 for i in range(3 * 2**bits))


CASES = {
    **{f"gray{bits}.png": (png(ids_of(bits), bits), ids_of(bits)) for bits in (1, 2, 4, 8, 16)},
    **{f"palette{bits}.png": (png(ids_of(bits), bits, 3, colours(bits)), ids_of(bits)) for bits in (1, 2, 4, 8)},
    **{f"grays{bits}.png": (png(ids_of(bits), bits, 3, GRAYS[: 3 * 2**bits]), ids_of(bits)) for bits in (1, 2, 4, 8)},
    **{f"alpha{bits}.png": (png(ids_of(bits), bits, 4), ids_of(bits)) for bits in (8, 16)},
    **{
        f"{name}{bits}_{kind}.tif": (tiff(ids_of(bits), bits, order, kind), ids_of(bits))
        for name, order in (("little", "<"), ("big", ">"))
        for bits, kinds in {1: (0, 1, 3), 2: (0, 1, 3), 4: (0, 1, 3), 8: (0, 1, 3), 16: (1,)}.items()
        for kind in kinds
    },
    "long.tif": (tiff(ids_of(16), 32), ids_of(16)),
    "signed_big.tif": (tiff(ids_of(16), 32, ">", signed=True), ids_of(16)),
    "signed.tif": (tiff(ids_of(8), 16, "<", signed=True), ids_of(8)),
    "full.pgm": (pgm(ids_of(8), 255), ids_of(8)),
    "eighteen.pgm": (pgm(ids_of(4), 18), ids_of(4)),
    "above_its_largest.pgm": (pgm(ids_of(8), 18), ids_of(8)),
    "plain.pgm": (pgm(ids_of(4), 18, plain=True), ids_of(4)),
    "plain_long.pgm": (pgm(ids_of(9), 600, plain=True), ids_of(9)),
    "long.pgm": (pgm(ids_of(16), 65535), ids_of(16)),
    "thousand.pgm": (pgm(ids_of(9), 1000), ids_of(9)),
    "bits.pbm": (pbm(ids_of(1)), ids_of(1)),
    "plain.pbm": (pbm(ids_of(1), plain=True), ids_of(1)),
    **{f"palette{bits}.bmp": (bmp(ids_of(bits), bits, colours(bits)), ids_of(bits)) for bits in (1, 4, 8)},
    **{f"grays{bits}.bmp": (bmp(ids_of(bits), bits, GRAYS[: 3 * 2**bits]), ids_of(bits)) for bits in (4, 8)},
    "black_and_white1.bmp": (bmp(ids_of(1), 1, b"\0\0\0\xff\xff\xff"), ids_of(1)),
    "white_and_black1.bmp": (bmp(ids_of(1), 1, b"\xff\xff\xff\0\0\0"), ids_of(1)),
    "black_and_white8.bmp": (bmp(ids_of(1), 8, b"\0\0\0\xff\xff\xff"), ids_of(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_in_the_file(tmp_path, name):
    content, ids = CASES[name]
    (tmp_path / name).write_bytes(content)
    read = read_ids(tmp_path / name)
    assert read.dtype in (np.uint8, np.uint16)
    assert np.array_equal(read, ids), (read, ids)


@pytest.mark.parametrize("name", CASES)
def test_ids_of_a_label_that_is_resized(tmp_path, name):
    """What predict writes beside a resized image: the nearest ids, in the format of the label, with its palette."""
    content, ids = CASES[name]
    (tmp_path / name).write_bytes(content)
    copy_label(tmp_path / name, tmp_path / "out" / name, (2 * HEIGHT, 2 * WIDTH))
    assert np.array_equal(read_ids(tmp_path / "out" / name), ids.repeat(2, 0).repeat(2, 1))
    with Image.open(tmp_path / name) as before, Image.open(tmp_path / "out" / name) as after:
        assert before.format == after.format
        if before.mode == "P":
            palette = before.getpalette()
            assert after.getpalette()[: len(palette)] == palette


def test_a_batch_of_labels_of_few_bits(tmp_path):
    for folder, content in (("images", png(ids_of(8), 8)), ("labels", png(ids_of(2), 2))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
    assert list(batches(find_inputs(tmp_path), 1, are_resized=True)) == [[0]]


@pytest.mark.parametrize("ids", [ids_of(16) + 40_000, ids_of(4) - 1])
def test_ids_out_of_range(tmp_path, ids):
    (tmp_path / "far.tif").write_bytes(tiff(ids & 0xFFFFFFFF, 32, signed=True))
    with pytest.raises(DataError, match=rf"far\.tif.*{ids.min()} to {ids.max()}\b"):
        read_ids(tmp_path / "far.tif")


def test_fractions_and_colours_are_no_ids(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "depth.tif")
    Image.new("RGB", (2, 2)).save(tmp_path / "colours.png")
    for name in ("depth.tif", "colours.png"):
        with pytest.raises(DataError, match="a label is one channel of ids"):
            read_ids(tmp_path / name)


@pytest.mark.parametrize("name", ["gray16.png", "full.pgm", "palette4.bmp", "thousand.pgm"])
def test_cut_labels_are_named(tmp_path, name):
    content = CASES[name][0]
    (tmp_path / name).write_bytes(content[: len(content) - 30])
    with pytest.raises(DataError, match=f"{name} cannot be read as an image"):
        read_ids(tmp_path / name)


def test_images_of_few_bits_keep_their_brightness(tmp_path):
    (tmp_path / "two.png").write_bytes(png(ids_of(2), 2))
    assert read_image(tmp_path / "two.png").unique().tolist() == [0, 85, 170, 255]
