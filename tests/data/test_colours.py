"""Strong colours: what a source alone can imitate of other weather and other cameras."""

import pytest
import torch
from tiny_runs import built
from torch import Tensor

from da_lightning.data.colours import StrongColours, random_colours
from da_lightning.data.views import seeded


def samples(image: Tensor, count: int = 400) -> list[Tensor]:
    change, found = StrongColours(), []
    for seed in range(count):
        with seeded(seed):
            found.append(change(image))
    return found


def test_a_seed_draws_the_same_picture() -> None:
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    once, again = samples(image, 20), samples(image, 20)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(a.dtype == torch.uint8 and a.shape == image.shape for a in once)
    assert len({a.float().mean().item() for a in once}) == 20


def test_half_have_noise_and_grey_stays_in_range() -> None:
    grey = torch.full((3, 24, 32), 120, dtype=torch.uint8)
    spread = torch.tensor([a.float().std((1, 2)).mean() for a in samples(grey)])
    assert 0.4 < (spread > 0.5).float().mean() < 0.6


def test_a_third_is_darkened_and_a_third_hazed() -> None:
    stripes = torch.zeros(3, 24, 32, dtype=torch.uint8)
    stripes[..., 16:] = 255
    change = StrongColours()
    change.jitter, change.blur = torch.nn.Identity(), torch.nn.Identity()
    found = []
    for seed in range(600):
        with seeded(seed):
            found.append(change(stripes).float())
    dark = torch.tensor([image[..., 16:].mean().item() for image in found])
    black = torch.tensor([image[..., :16].mean().item() for image in found])
    assert 0.28 < (black > 25).float().mean() < 0.39  # haze lifts black
    assert 0.28 < ((dark < 215) & (black < 15)).float().mean() / (black < 15).float().mean() < 0.39


def test_it_stands_in_the_place_of_random_colours() -> None:
    assert isinstance(random_colours(0.5, "strong"), StrongColours)
    assert not isinstance(random_colours(0.5, None), StrongColours)


@pytest.mark.parametrize("method", ["segmentation_source_only", "reid_source_only"])
def test_both_families_take_it(method: str) -> None:
    _, data = built(method, "data.augment=strong", "data.colour_jitter=0.5")
    for view in (data.source_view, data.target_view):
        assert isinstance(view.augment.colours, StrongColours)
    first, again = (data.source_view[0, 3]["image"] for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, data.source_view[0, 4]["image"])
