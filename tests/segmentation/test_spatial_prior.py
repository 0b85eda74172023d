import numpy as np
import pytest
import torch

from da_lightning.errors import DataError, UserError
from da_lightning.segmentation.spatial_prior import load_prior, prior_pictures, save_prior, spatial_prior

CLASSES = ["sky", "road", "car", "train"]


def streets(count=8, height=48, width=64):
    """Sky above road, a car that moves from street to street, no train."""
    for step in range(count):
        label = torch.zeros(height, width, dtype=torch.uint8)
        label[height // 2 :] = 1
        label[height // 2 : height // 2 + 6, 6 * step : 6 * step + 8] = 2
        label[:, -4:] = 255
        yield label


def test_without_smoothing_it_is_the_frequency_over_valid_pixels_divided_by_the_maximum():
    prior = spatial_prior(streets(), 4, (48, 64), kernel=0)
    labels = np.stack([label.numpy() for label in streets()])[:, :, :-4]
    frequency = np.stack([(labels == c).mean(0) for c in range(3)])
    expected = frequency / frequency.max((1, 2), keepdims=True)
    assert prior.dtype == torch.float32
    assert torch.allclose(prior[:3, :, :-4], torch.from_numpy(expected).float(), atol=1e-6)


def test_pixels_without_a_label_say_the_overall_frequency():
    prior = spatial_prior(streets(), 4, (48, 64), kernel=0)
    labels = np.stack([label.numpy() for label in streets()])
    overall = np.array([(labels == c).sum() / (labels != 255).sum() for c in range(3)])
    highest = np.array([((labels == c).sum(0) / 8).max() for c in range(3)])
    assert torch.allclose(prior[:3, 5, -1], torch.from_numpy(overall / highest).float(), atol=1e-6)


def test_smoothing_is_one_square_gaussian():
    sharp = spatial_prior(streets(), 4, (48, 64), kernel=0)
    smooth = spatial_prior(streets(), 4, (48, 64), kernel=12 / 48)
    offset = np.arange(-6, 7)
    weight = np.exp(-((offset[:, None] / 2.0) ** 2 + (offset[None] / 2.0) ** 2) / 2)
    padded = np.pad(sharp.double().numpy(), ((0, 0), (6, 6), (6, 6)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (13, 13), (1, 2))
    expected = (windows * weight / weight.sum()).sum((-2, -1))
    expected[:3] /= expected[:3].max((1, 2), keepdims=True)
    assert torch.allclose(smooth, torch.from_numpy(expected).float(), atol=1e-5)


def test_the_kernel_scales_with_the_size():
    small = spatial_prior(streets(), 4, (48, 64), kernel=0.25)
    large = spatial_prior(streets(height=96, width=128, count=1), 4, (96, 128), kernel=0.25)
    assert (small[0, 16:32, 0] > 0.01).sum() * 2 == pytest.approx((large[0, 32:64, 0] > 0.01).sum(), abs=3)


def test_every_class_peaks_at_one_and_an_absent_class_is_forbidden():
    prior = spatial_prior(streets(), 4, (48, 64))
    assert prior.amax((1, 2)).tolist() == [1, 1, 1, 0]
    assert prior.min() >= 0


def test_labels_of_other_sizes_and_types_are_resized_to_nearest():
    doubled = (label.long().repeat_interleave(2, 0).repeat_interleave(2, 1) for label in streets())
    assert torch.equal(spatial_prior(doubled, 4, (48, 64)), spatial_prior(streets(), 4, (48, 64)))


def test_mistakes_are_told():
    with pytest.raises(DataError, match="class ids 0 to 3, found no such pixel"):
        spatial_prior([], 4, (8, 8))
    with pytest.raises(DataError, match="found no such pixel"):
        spatial_prior([torch.full((8, 8), 255, dtype=torch.uint8)], 4, (8, 8))
    with pytest.raises(UserError, match="in 0..1, got 70"):
        spatial_prior(streets(), 4, (48, 64), kernel=70)


def test_a_saved_prior_comes_back_bit_for_bit_and_fits_other_sizes(tmp_path):
    prior = spatial_prior(streets(), 4, (48, 64), kernel=0.25)
    save_prior(prior, CLASSES, tmp_path / "prior.pt")
    assert torch.equal(load_prior(tmp_path / "prior.pt", CLASSES, (48, 64)), prior)
    larger = load_prior(tmp_path / "prior.pt", CLASSES, (96, 128))
    assert larger.shape == (4, 96, 128)
    assert torch.allclose(larger.view(4, 48, 2, 64, 2).mean((2, 4)), prior, atol=0.1)


def test_a_file_that_is_not_this_prior_is_told(tmp_path):
    with pytest.raises(DataError, match="no file there"):
        load_prior(tmp_path / "none.pt", CLASSES, (8, 8))
    (tmp_path / "text.pt").write_text("hello")
    torch.save(torch.ones(4, 8, 8), tmp_path / "tensor.pt")
    torch.save({"state_dict": {}}, tmp_path / "checkpoint.pt")
    for name in ("text", "tensor", "checkpoint"):
        with pytest.raises(DataError, match="found none that can be read"):
            load_prior(tmp_path / f"{name}.pt", CLASSES, (8, 8))
    save_prior(torch.ones(4, 8, 8), CLASSES, tmp_path / "prior.pt")
    with pytest.raises(DataError, match="road, sky.*sky, road, car, train"):
        load_prior(tmp_path / "prior.pt", ["road", "sky"], (8, 8))


def test_pictures_are_one_bright_where_high_heat_map_per_class():
    prior = spatial_prior(streets(), 4, (48, 64))
    pictures = prior_pictures(prior, CLASSES)
    assert list(pictures) == CLASSES
    for picture, heat in zip(pictures.values(), prior, strict=True):
        assert picture.shape == (3, 48, 64)
        assert picture.dtype == torch.uint8
        if heat.any():
            brightness = picture.float().mean(0)
            assert brightness[heat == 1].min() > brightness[heat < 0.1].max()
