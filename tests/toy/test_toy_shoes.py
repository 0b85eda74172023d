"""The shoes keep their promises: same seed, same bytes; lines that can be found again; colours apart from shapes."""

import random
from collections import Counter
from functools import cache

import numpy as np
import pytest

from da_lightning.toy.shoes import KINDS, STYLES, Shoe, develop, edge_f1, edges, mix_paints, render_shoe

COUNT = 60


@cache
def sixty(style: str) -> np.ndarray:
    return np.stack([render_shoe(seed, style) for seed in range(COUNT)])


def both_looks(shape: int, colours: int, size: tuple[int, int] = (64, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Lines and photo of one shoe, which no training set has."""
    rng = random.Random(colours)
    sheet = Shoe(random.Random(shape), mix_paints(rng), size).draw()
    return np.asarray(sheet.lines.reduce(4)) > 127, develop(sheet, rng)


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_gives_the_same_bytes(style):
    for seed in (59, 0):  # out of order: no state may leak from one call to the next
        assert render_shoe(seed, style).tobytes() == sixty(style)[seed].tobytes()
    assert len({image.tobytes() for image in sixty(style)}) == COUNT


def test_the_styles_are_unpaired():
    photos, drawings = [edges(image) for image in sixty("photo")], [edges(image) for image in sixty("drawing")]
    same, next_one = (np.mean([edge_f1(photos[i], drawings[i - k]) for i in range(COUNT)]) for k in (0, 1))
    assert abs(same - next_one) < 0.1 and same < 0.6


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (97, 81)])
def test_size_and_type(style, size):
    image = render_shoe(3, style, size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8


def test_all_kinds_occur_about_equally():
    kinds = Counter(Shoe(random.Random(seed), mix_paints(random.Random(0)), (8, 8)).kind for seed in range(300))
    assert kinds.keys() == KINDS.keys()
    assert min(kinds.values()) > 25


def test_drawings_are_dark_lines_on_white():
    images = sixty("drawing")
    assert (images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all()
    assert (images[:, 0] == 255).all() and (images[:, :, 0] == 255).all()
    assert (images.min((1, 2, 3)) == 0).all()
    assert 0.03 < (images < 128).mean() < 0.15


def test_photos_are_colourful_on_a_pale_ground():
    images = sixty("photo").astype(float)
    assert (images[:, :3] > 235).all()
    assert (images.max(-1) - images.min(-1)).mean((1, 2)).max() > 30
    own = images.std((1, 2)).mean()
    between = images.std(0)[20:44].mean()
    assert between > 40 and own > 40


@pytest.mark.parametrize("size", [(64, 64), (128, 128)])
def test_lines_are_found_again_in_photos(size):
    pairs = [both_looks(seed, 100 + seed, size) for seed in range(15)]
    scores = [edge_f1(edges(photo), lines) for lines, photo in pairs]
    assert min(scores) >= 0.9 and np.mean(scores) > 0.98
    noise = np.random.default_rng(0).normal(0, 6, (len(pairs), *size, 3))
    noisy = [np.clip(photo + n, 0, 255).astype(np.uint8) for (_, photo), n in zip(pairs, noise, strict=True)]
    assert np.mean([edge_f1(edges(image), lines) for image, (lines, _) in zip(noisy, pairs, strict=True)]) > 0.95


def test_lines_are_found_again_in_drawings():
    for image in sixty("drawing"):
        assert edge_f1(edges(image), image[..., 0] < 128) > 0.97


def test_shapes_do_not_depend_on_colours():
    first, second = both_looks(7, 1), both_looks(7, 2)
    assert np.array_equal(first[0], second[0])
    assert np.abs(first[1].astype(int) - second[1]).mean() > 8
    assert edge_f1(edges(first[1]), edges(second[1])) > 0.95


def test_edge_f1():
    wanted = np.zeros((9, 9), bool)
    wanted[4] = True
    assert edge_f1(wanted, wanted) == 1
    assert edge_f1(np.roll(wanted, 1, 0), wanted) == 1
    assert edge_f1(np.roll(wanted, 2, 0), wanted) == 0
    assert edge_f1(np.zeros_like(wanted), wanted) == 0
    half = wanted.copy()
    half[:, 4:] = False
    assert edge_f1(half, wanted) == pytest.approx(2 * 5 / (9 + 5))  # all found is right; one more pixel is near
    assert not edges(np.full((9, 9, 3), 200, np.uint8)).any()
