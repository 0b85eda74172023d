import math
import threading
import weakref

import pytest
import torch

from da_lightning.errors import UserError
from da_lightning.segmentation.pseudo_labels import (
    IGNORE,
    Thresholds,
    class_counts,
    find_thresholds,
    objective,
    realised_shares,
    select,
)

K = 5
POLICIES = ["class_balanced", "global"]


def random_maps(seed=0, images=6, sharpness=3.0):
    """Softmax maps [images, K, 24, 32] whose last class is never predicted."""
    logits = torch.randn(images, K, 24, 32, generator=torch.Generator().manual_seed(seed)) * sharpness
    logits[:, -1] -= 100
    return logits.softmax(1)


def tied_maps():
    """Confidences on a grid of 16ths: thousands of ties."""
    return (random_maps(1, sharpness=1.0) * 16).round() / 16


def saturated_maps():
    """A head class with probabilities sigmoid(N(7, 3)), crowded at 1 and partly 1; the others share the rest."""
    noise = torch.randn(6, K, 24, 32, generator=torch.Generator().manual_seed(2))
    head = (noise[:, :1] * 3 + 7).sigmoid()
    head[:, :, 0] = 1
    return torch.cat([head, (1 - head) * noise[:, 1:].softmax(1)], 1)


def naive_thresholds(probabilities, portion, policy="class_balanced", stride=1):
    """The definition: sort everything."""
    confidence, predicted = probabilities.max(1)
    lists = [[] for _ in range(K)]
    for image, classes in zip(confidence, predicted, strict=True):
        for c in range(K):
            lists[c] += image[classes == c].tolist()[::stride]
    if policy == "global":
        lists = [sum(lists, [])] * K
    ranks = [math.floor(len(values) * portion) for values in lists]
    return torch.tensor([sorted(v, reverse=True)[r - 1] if r else 1.0 for v, r in zip(lists, ranks, strict=True)])


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("portion", [1e-4, 0.003, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [random_maps, tied_maps, saturated_maps])
def test_thresholds_equal_the_sorted_definition(make, policy, portion, stride):
    probabilities = make()
    found = find_thresholds(lambda: probabilities.split(2), K, portion, policy, stride)
    assert found.tau.dtype == torch.float32
    assert torch.equal(found.tau, naive_thresholds(probabilities, portion, policy, stride))
    assert torch.equal(found.counts, probabilities.argmax(1).flatten().bincount(minlength=K))


def test_the_cases_above_hold_what_they_are_for():
    assert class_counts(random_maps().argmax(1), K)[-1] == 0
    assert len(tied_maps().amax(1).unique()) < 20
    assert (saturated_maps().amax(1) == 1).sum() >= 192
    assert (saturated_maps().amax(1) > 0.999).float().mean() > 0.45
    assert (class_counts(saturated_maps().argmax(1), K) > 0).all()
    assert (naive_thresholds(random_maps(), 1e-4) == 1).all()


def test_a_class_never_predicted_gets_threshold_one_and_no_pixel():
    probabilities = random_maps()
    found = find_thresholds(lambda: [probabilities], K, 0.5)
    assert found.tau[-1] == 1
    assert not (select(probabilities, found.tau) == K - 1).any()


@pytest.mark.parametrize("shards", [2, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_ranks_that_sum_their_counts_find_the_thresholds_of_one(policy, shards):
    probabilities = saturated_maps()
    pieces = [probabilities[rank::2] for rank in range(shards)]  # two ranks share the images
    pieces[2:] = [probabilities[:0]] * (shards - 2)  # a third has none
    barrier, posted, found = threading.Barrier(shards), [None] * shards, [None] * shards

    def work(rank):
        def all_reduce(counts):
            posted[rank] = counts.clone()
            barrier.wait(timeout=30)
            total = sum(posted)
            barrier.wait(timeout=30)
            return total

        found[rank] = find_thresholds(lambda: pieces[rank].split(1), K, 0.35, policy, reduce=all_reduce)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    alone = find_thresholds(lambda: [probabilities], K, 0.35, policy)
    for one in found:
        assert torch.equal(one.tau, alone.tau)
        assert torch.equal(one.counts, alone.counts)


def test_two_passes_that_keep_nothing():
    made, alive = [], []

    def maps():
        for seed in range(4):
            probabilities = random_maps(seed)
            made.append(weakref.ref(probabilities))
            yield probabilities
            del probabilities
            alive.append(sum(one() is not None for one in made))

    find_thresholds(maps, K, 0.2)
    assert len(made) == 8
    assert max(alive) <= 1


def test_overshoot_of_interpolated_probabilities_is_clamped():
    probabilities = torch.tensor([1.02, 1.01, 0.9, -0.03, -0.02, 0.1]).view(1, 2, 1, 3)
    assert find_thresholds(lambda: [probabilities], 2, 0.5).tau.tolist() == [1, 1]
    assert select(probabilities, torch.ones(2)).tolist() == [[[0, 0, IGNORE]]]


def test_pixels_without_any_confidence_are_never_selected():
    probabilities = torch.zeros(1, 2, 1, 4)
    found = find_thresholds(lambda: [probabilities], 2, 1.0)
    assert (found.tau > 0).all()
    assert (select(probabilities, found.tau) == IGNORE).all()


def test_the_ratio_decides_not_the_probability():
    probabilities = torch.tensor([0.89, 0.11]).view(1, 2, 1, 1)
    assert select(probabilities, torch.tensor([0.9, 0.09])).item() == 1
    assert select(probabilities, torch.tensor([0.9, 0.12])).item() == IGNORE


@pytest.mark.parametrize("make", [random_maps, tied_maps, saturated_maps])
def test_self_training_keeps_the_argmax_of_confident_pixels(make):
    probabilities = make()
    tau = find_thresholds(lambda: [probabilities], K, 0.3, "global").tau
    confidence, predicted = probabilities.max(1)
    assert torch.equal(select(probabilities, tau), predicted.where(confidence >= tau[0], IGNORE))


@pytest.mark.parametrize("policy", POLICIES)
def test_select_minimises_the_objective_over_every_choice(policy):
    probabilities = random_maps()
    thresholds = find_thresholds(lambda: [probabilities], K, 0.4, policy)
    chosen = objective(probabilities, select(probabilities, thresholds.tau), thresholds.tau)
    ignoring = torch.zeros_like(chosen)
    selecting = -probabilities.log() - thresholds.k[:, None, None]
    best = torch.cat([selecting, ignoring[:, None]], 1).amin(1)
    assert torch.allclose(chosen, best, atol=1e-5)
    assert chosen.sum() < 0  # the reward for selecting pays


def test_without_the_reward_ignoring_everything_is_optimal():
    labels = select(random_maps(), torch.ones(K))
    assert (labels[random_maps().amax(1) < 1] == IGNORE).all()


def test_k_is_minus_the_logarithm_of_tau():
    thresholds = Thresholds(torch.tensor([1.0, math.exp(-2)]), torch.tensor([3, 4]))
    assert torch.allclose(thresholds.k, torch.tensor([0.0, 2.0]))


def test_realised_shares_are_the_portion():
    probabilities = random_maps(images=12)
    for policy in POLICIES:
        found = find_thresholds(lambda: [probabilities], K, 0.2, policy)
        selected = sum(class_counts(select(one, found.tau), K) for one in probabilities.split(3))
        shares = realised_shares(selected, found.counts)
        assert shares[-1] == 0
        if policy == "global":
            assert selected.sum() == math.floor(found.counts.sum() * 0.2)
        else:
            assert torch.allclose(shares[:-1], torch.tensor(0.2), atol=0.01)


def test_class_counts_skip_ignored_pixels_of_any_integer_type():
    labels = torch.tensor([[0, 2, 255], [2, 255, 4]])
    for dtype in (torch.uint8, torch.int64):
        assert class_counts(labels.to(dtype), K).tolist() == [1, 0, 2, 0, 1]


@pytest.mark.parametrize("portion", [0, -0.1, 1.01, 20, math.nan])
def test_a_portion_outside_0_1_is_told(portion):
    with pytest.raises(UserError, match=r"must lie in \(0, 1\], got"):
        find_thresholds(lambda: [random_maps()], K, portion)


def test_other_mistakes_are_told():
    maps = random_maps()
    with pytest.raises(UserError, match="'class_balanced' or 'global', got 'cbst'"):
        find_thresholds(lambda: [maps], K, 0.2, "cbst")
    with pytest.raises(UserError, match="at least 1, got 0"):
        find_thresholds(lambda: [maps], K, 0.2, stride=0)
    with pytest.raises(UserError, match="float32.*torch\.bfloat16"):
        find_thresholds(lambda: [maps.bfloat16()], K, 0.2)
    with pytest.raises(UserError, match="got NaN"):
        find_thresholds(lambda: [maps * math.nan], K, 0.2)
