import torch

from da_lightning.segmentation.mining import mined_crop, mining_classes


def street():
    """Road (0) everywhere, a blob of class 3 at rows 20..21, columns 30..32, class 4 in the top left corner."""
    label = torch.zeros(40, 60, dtype=torch.uint8)
    label[20:22, 30:33] = 3
    label[0, 0] = 4
    label[:, 50:] = 255
    return label


def test_priority_and_rarest_classes():
    priority, rare = mining_classes(torch.tensor([90_000, 9, 9_000, 0, 991]), threshold=0.001, rarest=3)
    assert priority == [1, 3]
    assert rare == [3, 1, 4]


def test_crops_are_centred_on_pixels_of_the_mined_class():
    torch.manual_seed(0)
    corners = {mined_crop(street(), (9, 12), [3], [0], chance=1.0) for _ in range(200)}
    assert corners == {(row - 4, column - 6) for row in (20, 21) for column in (30, 31, 32)}


def test_priority_classes_go_before_rare_ones_and_absent_ones_do_not_count():
    torch.manual_seed(0)
    for priority, rare in (([3, 1], [0]), ([], [3, 1, 2]), ([2], [3])):
        top, left = mined_crop(street(), (9, 12), priority, rare, chance=1.0)
        assert street()[top + 4, left + 6] == 3
    assert mined_crop(street(), (9, 12), [1], [2], chance=1.0) is None


def test_present_classes_are_drawn_uniformly_whatever_their_size():
    torch.manual_seed(0)
    centres = [street()[top + 4, left + 6].item() for top, left in
               (mined_crop(street(), (9, 12), [0, 3], [], chance=1.0) for _ in range(400))]  # fmt: skip
    assert 150 < centres.count(3) < 250
    assert centres.count(0) + centres.count(3) == 400


def test_a_crop_always_fits_and_a_class_too_near_the_border_is_not_mined():
    torch.manual_seed(0)
    for size in ((9, 12), (40, 60), (39, 60), (1, 1), (40, 7)):
        for _ in range(30):
            top, left = mined_crop(street(), size, [0, 3], [255], chance=1.0)
            assert 0 <= top <= 40 - size[0]
            assert 0 <= left <= 60 - size[1]
    assert mined_crop(street(), (9, 12), [4], [], chance=1.0) is None
    assert mined_crop(street(), (41, 12), [3], [], chance=1.0) is None


def test_chance_and_the_seed_decide():
    torch.manual_seed(0)
    mined = [mined_crop(street(), (9, 12), [3], [], chance=0.8) for _ in range(500)]
    assert 370 < sum(corner is not None for corner in mined) < 430
    torch.manual_seed(0)
    assert mined == [mined_crop(street(), (9, 12), [3], [], chance=0.8) for _ in range(500)]
    assert mined_crop(street(), (9, 12), [3], [], chance=0.0) is None
