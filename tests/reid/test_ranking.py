"""Rankings against recorded numbers and against slow loops that follow the rules to the letter."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from golden_files import golden_files, read_golden
from torch import Tensor
from torch.nn import functional as F

from da_lightning.errors import DataError, UserError
from da_lightning.reid.ranking import QueryScores, Ranking, nearest, rank
from da_lightning.reid.reranking import reranked_distances

GOLDEN = golden_files("reid_ranking*.npz")
RANKS = (1, 5, 10, 20)
Labels = tuple[Tensor, Tensor, Tensor, Tensor]


# -- naive -------------------------------------------------------------------------------------------------------------


def slow_scores(distances: Tensor, labels: Labels) -> dict[str, float]:
    """The rules, one gallery image after the other."""
    query_person, query_camera, person, camera = (part.tolist() for part in labels)
    plain, official, first = [], [], []
    for q, row in enumerate(distances.tolist()):
        hits, at, both = 0, [], []
        place = before = 0
        for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
            if person[g] == -1 or (person[g] == query_person[q] and camera[g] == query_camera[q]):
                continue
            place += 1
            old = before / (place - 1) if place > 1 else 1.0
            if person[g] == query_person[q]:
                hits += 1
                at.append(hits / place)
                both.append((old + hits / place) / 2)
                if hits == 1:
                    first.append(place)
            before = hits
        if at:
            plain.append(np.mean(at))
            official.append(np.mean(both))
    shares = {f"rank{k}": float(np.mean(np.array(first) <= k)) for k in RANKS}
    return {"map": float(np.mean(plain)), "map_trapezoid": float(np.mean(official))} | shares


def slow_reranking(features: np.ndarray, queries: int, k1: int, k2: int, weight: float) -> np.ndarray:
    """As the paper has it, dense: squared distances over each column's largest, k1 neighbours besides oneself."""
    distances = ((features[:, None] - features[None]) ** 2).sum(2)
    distances = (distances / distances.max(0)).T
    order = np.argsort(distances, 1, kind="stable")

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i, : k + 1].tolist() if i in order[j, : k + 1]}

    encoded = np.zeros_like(distances)
    for i in range(len(features)):
        own = reciprocal(i, k1)
        expanded = set(own)
        for j in own:
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & own) > 2 / 3 * len(theirs):
                expanded |= theirs
        at = sorted(expanded)
        encoded[i, at] = np.exp(-distances[i, at]) / np.exp(-distances[i, at]).sum()
    encoded = np.stack([encoded[order[i, :k2]].mean(0) for i in range(len(features))])
    smaller = np.minimum(encoded[:queries, None], encoded[None, queries:]).sum(2)
    return (1 - weight) * (1 - smaller / (2 - smaller)) + weight * distances[:queries, queries:]


def drawn(seed: int, queries: int = 23, gallery: int = 57, persons: int = 9, cameras: int = 3) -> tuple[Tensor, Tensor]:
    """Labels [2, Q + G], junk, distractors and queries without positives among them, and features full of ties."""
    generator = torch.Generator().manual_seed(seed)
    person = torch.randint(1, persons, (queries + gallery,), generator=generator)
    noise = torch.rand(gallery, generator=generator)
    person[queries:][noise < 0.15] = -1
    person[queries:][noise > 0.85] = 0
    person[0] = persons + 5  # nobody else's
    camera = torch.randint(cameras, person.shape, generator=generator)
    features = torch.randint(-1, 2, (len(person), 4), generator=generator).float() + (person[:, None] % 2)
    return torch.stack([person, camera]), features


def split(labels: Tensor, queries: int) -> Labels:
    return labels[0, :queries], labels[1, :queries], labels[0, queries:], labels[1, queries:]


def squared(features: Tensor, queries: int) -> Tensor:
    return (features[:queries, None] - features[None, queries:]).square().sum(2)


def filled(metric: Ranking, features: Tensor, labels: Tensor, queries: int, batch: int = 16) -> Ranking:
    is_query = torch.arange(len(features)) < queries
    for part in torch.arange(len(features)).split(batch):
        metric.update(features[part], labels[0, part], labels[1, part], is_query[part])
    return metric


def floats(scores: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in scores.items()}


# -- recorded ----------------------------------------------------------------------------------------------------------


def recorded(path: Path) -> tuple[dict[str, Tensor], Labels]:
    arrays, _ = read_golden(path)
    return arrays, tuple(arrays[f"{of}_{what}"] for of in ("query", "gallery") for what in ("ids", "cams"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("junk", ["dropped", "kept"])
def test_recorded_scores(path: Path, junk: str) -> None:
    arrays, (query_person, query_camera, person, camera) = recorded(path)
    if junk == "kept":  # as somebody else
        person = person.where(person != -1, int(person.max()) + 1)
    scores = rank(arrays["distance"].split(7), query_person, query_camera, person, camera)
    name = "no_junk" if junk == "dropped" else "all"
    cmc = torch.stack([(scores.first <= k + 1).double().mean() for k in range(len(arrays[f"cmc_{name}"]))])
    assert cmc.float().equal(arrays[f"cmc_{name}"])
    assert scores.precision.mean().item() == pytest.approx(arrays[f"map_{name}"].item(), abs=1e-9)
    if junk == "kept":
        assert scores.trapezoid.mean().item() == pytest.approx(arrays["map_trapezoid_all"].item(), abs=1e-9)
    assert scores.valid.sum() == arrays["valid_queries"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_recorded_scores_by_the_metric(path: Path) -> None:
    arrays, labels = recorded(path)
    features = torch.cat([arrays["query_features"], arrays["gallery_features"]])
    both = torch.stack([torch.cat([labels[0], labels[2]]), torch.cat([labels[1], labels[3]])])
    scores = filled(Ranking("euclidean", block=13), features, both, len(labels[0])).compute()
    assert scores["map"].item() == pytest.approx(arrays["map_no_junk"].item(), abs=1e-9)
    for k in RANKS:
        assert scores[f"rank{k}"].float() == arrays["cmc_no_junk"][k - 1]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_recorded_reranking(path: Path) -> None:
    arrays, _ = read_golden(path)
    features = torch.cat([arrays["query_features"], arrays["gallery_features"]])
    reranked = torch.cat(list(reranked_distances(features, len(arrays["query_features"]), block=64)))
    torch.testing.assert_close(reranked, arrays["reranked"], rtol=0, atol=1e-4)


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gallery", [57, 11])
def test_scores_follow_the_rules(seed: int, gallery: int, caplog: pytest.LogCaptureFixture) -> None:
    """With ties, junk, distractors, queries that find nobody, and galleries shorter than 20."""
    labels, features = drawn(seed, 23, gallery)
    expected = slow_scores(squared(features, 23), split(labels, 23))
    assert floats(filled(Ranking("euclidean", block=5), features, labels, 23).compute()) == pytest.approx(expected)
    assert "of 23 queries have nobody to find" in caplog.text


def test_queries_and_gallery_may_come_in_any_order() -> None:
    labels, features = drawn(0)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    queries = order < 23
    expected = slow_scores(
        squared(torch.cat([features[order][queries], features[order][~queries]]), 23),
        split(torch.cat([labels[:, order][:, queries], labels[:, order][:, ~queries]], 1), 23),
    )
    metric = Ranking("euclidean")
    metric.update(features[order], labels[0, order], labels[1, order], queries)
    assert floats(metric.compute()) == pytest.approx(expected)


def test_cosine_ranks_by_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, _ = drawn(1)
    features = torch.randn(labels.shape[1], 5, generator=generator)
    expected = slow_scores(squared(F.normalize(features.double()), 23), split(labels, 23))
    stretched = features * torch.rand(len(features), 1, generator=generator).add(0.1)
    assert floats(filled(Ranking("cosine"), stretched, labels, 23).compute()) == pytest.approx(expected)


def test_the_two_precisions() -> None:
    """Positives at ranks 1 and 3: (1 + 2/3) / 2, and with the precisions just before, (1 + (1/2 + 2/3) / 2) / 2."""
    labels = torch.tensor([7]), torch.tensor([1]), torch.tensor([7, 0, 7, 0]), torch.tensor([2, 1, 3, 1])
    scores = rank([torch.tensor([[0.1, 0.2, 0.3, 0.4]])], *labels)
    assert scores.precision.item() == pytest.approx((1 + 2 / 3) / 2)
    assert scores.trapezoid.item() == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_of_equal_distances_the_first_in_the_gallery_is_first() -> None:
    person = torch.tensor([3, 5, 5, 3, 5])
    labels = torch.tensor([5]), torch.tensor([0]), person, torch.ones(5, dtype=torch.long)

    def first(distances: list[float]) -> int:
        return int(rank([torch.tensor([distances])], *labels).first)

    assert first([1.0, 1.0, 1.0, 1.0, 1.0]) == 2
    assert first([0.0, -0.0, 1.0, 1.0, 1.0]) == 2
    assert first([-1.0, -2.0, 1.0, 1.0, 1.0]) == 1


def test_half_precision_around_it_changes_nothing() -> None:
    labels, features = drawn(2)
    features = features + torch.rand(features.shape, generator=torch.Generator().manual_seed(0)) / 100
    expected = filled(Ranking(), features, labels, 23).compute()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            computed = filled(Ranking(), features, labels, 23).compute()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert floats(computed) == floats(expected)


# -- re-ranking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 1), (7, 12), (60, 6)])
def test_reranking_is_that_of_the_paper(k1: int, k2: int) -> None:
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(k1))
    expected = slow_reranking(features.double().numpy(), 15, k1, k2, 0.4)
    reranked = torch.cat(list(reranked_distances(features, 15, k1, k2, 0.4, block=8)))
    np.testing.assert_allclose(reranked.numpy(), expected, atol=1e-5)


def test_reranked_scores_are_those_of_reranked_distances() -> None:
    labels, _ = drawn(3)
    features = torch.randn(labels.shape[1], 6, generator=torch.Generator().manual_seed(3))
    metric = filled(Ranking("cosine", rerank=True, block=9), features, labels, 23)
    kept = labels[0] != -1  # junk is nobody's neighbour
    unit = F.normalize(features[kept])
    distances = torch.cat(list(reranked_distances(unit, 23)))
    expected = slow_scores(distances, split(labels[:, kept], 23))
    computed = floats(metric.compute())
    assert {name: computed[f"reranked_{name}"] for name in expected} == pytest.approx(expected)
    assert computed["map"] == pytest.approx(slow_scores(squared(unit, 23), split(labels[:, kept], 23))["map"])


def test_reranking_of_equal_features_is_finite() -> None:
    reranked = torch.cat(list(reranked_distances(torch.ones(60, 4), 10)))
    assert reranked.isfinite().all()


# -- nearest -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_nearest(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(11, 6, generator=generator), torch.randn(30, 6, generator=generator)
    gallery[20:] = gallery[:10]
    excluded = torch.rand(11, 30, generator=generator) < 0.3
    full = 1 - F.cosine_similarity(query[:, None], gallery[None], dim=2) if distance == "cosine" else None
    full = torch.cdist(query, gallery) if full is None else full
    expected, order = full.masked_fill(excluded, torch.inf).sort(dim=1, stable=True)
    distances, places = nearest(query, gallery, 7, distance, excluded, block=4)  # type: ignore[arg-type]
    torch.testing.assert_close(distances, expected[:, :7], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full.gather(1, places), full.gather(1, order[:, :7]), atol=1e-5, rtol=1e-5)
    assert not excluded.gather(1, places).any()


def test_nearest_of_a_small_gallery() -> None:
    query, gallery = torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    excluded = torch.tensor([[True, False, False]])
    distances, places = nearest(query, gallery, 5, "euclidean", excluded)
    assert places.tolist() == [[1, 2, 0]] and distances.tolist() == [[0, 0, torch.inf]]
    assert nearest(query, gallery, 5, "euclidean")[0].tolist() == [[0, 0, 5]]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "camera", "reason"),
    [
        ([1, 2, 1, 2], [3, 3, 3, 3], "all images are of camera 3"),
        ([1, 2, 3, 4], [1, 2, 1, 2], "its persons .* are others than those of the query"),
        ([1, 2, 1, 4], [1, 2, 1, 2], "by the query's own camera alone"),
        ([1, 2, -1, -1], [1, 2, 1, 2], "2 queries and 0 gallery images"),
    ],
)
def test_without_any_positive_it_says_why(person: list[int], camera: list[int], reason: str) -> None:
    metric = Ranking()
    metric.update(torch.randn(4, 3), torch.tensor(person), torch.tensor(camera), torch.arange(4) < 2)
    with pytest.raises(DataError, match=reason):
        metric.compute()


def test_features_that_are_no_numbers_or_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    labels, features = drawn(0)
    features[3, 1] = torch.nan
    with pytest.raises(UserError, match="finite"):
        filled(Ranking("euclidean"), features, labels, 23).compute()
    assert "same features" not in caplog.text
    with caplog.at_level(logging.WARNING):
        scores = filled(Ranking("euclidean"), torch.ones_like(features), labels, 23).compute()
    assert "same features" in caplog.text
    expected = slow_scores(torch.zeros(23, len(features) - 23), split(labels, 23))
    assert floats(scores) == pytest.approx(expected)


def test_an_unknown_distance() -> None:
    with pytest.raises(UserError, match="'cosine' or 'euclidean', got 'cosin'"):
        Ranking("cosin").update(*([torch.ones(1, 1)] * 4))  # type: ignore[arg-type]


# -- ranks -------------------------------------------------------------------------------------------------------------


def _rank_computes(process: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=process, world_size=2)
    labels, features = drawn(5)
    part = [torch.arange(0, 31), torch.arange(31, len(features))][process]
    metric = Ranking("euclidean")
    metric.update(features[part], labels[0, part], labels[1, part], part < 23)
    torch.save(metric.compute(), f"{results}{process}")
    dist.destroy_process_group()


def test_two_ranks_with_unequal_shares_agree_with_one(tmp_path: Path) -> None:
    arguments = (str(tmp_path / "store"), str(tmp_path / "scores"))
    mp.start_processes(_rank_computes, arguments, nprocs=2, start_method="fork")
    labels, features = drawn(5)
    expected = filled(Ranking("euclidean"), features, labels, 23).compute()
    for process in range(2):
        assert torch.load(tmp_path / f"scores{process}") == expected


def test_query_scores_count_skipped_queries() -> None:
    labels, features = drawn(0)
    scores: QueryScores = rank(squared(features, 23).split(10), *split(labels, 23))
    assert len(scores.valid) == 23 and not scores.valid[0] and scores.valid.sum() == len(scores.first)
