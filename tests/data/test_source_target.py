from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from da_lightning.data.fingerprints import fingerprints
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import DataError, UserError


class Numbers(Dataset):
    """Samples that say where they come from and draw from the seed they are given."""

    def __init__(self, size: int, offset: int = 0) -> None:
        self.size, self.offset = size, offset

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, draw: tuple[int, int] | int) -> dict[str, int]:
        index, seed = draw if isinstance(draw, tuple) else (draw, -1)
        return {"value": self.offset + index, "seed": seed}


def module(source: int | None = 10, target: int = 6, **options) -> SourceTargetDataModule:
    images = None if source is None else Numbers(source)
    sets = {"tests": {"a": Numbers(5, 200), "b": Numbers(4, 300)}, "validations": {"c": Numbers(3, 400)}}
    return SourceTargetDataModule(images, Numbers(target, 100), **{"batch_size": 2, **sets, **options})


def epoch(data: SourceTargetDataModule, number: int = 0) -> list[dict]:
    loader = data.train_dataloader()
    for single in loader.flattened:
        single.sampler.set_epoch(number)
    return [batch for batch, _, _ in loader]


def values(batches: list[dict], domain: str) -> list[int]:
    return [value for batch in batches for value in batch[domain]["value"].tolist()]


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 5),
        ({"mode": "min_size"}, 3),
        ({"iterations_per_epoch": 7}, 7),
        ({"iterations_per_epoch": 7, "mode": "min_size"}, 7),
        ({"source": 5}, 3),
        ({"source": 11}, 5),
        ({"target_batch_size": 1}, 6),
        ({"target_batch_size": 1, "mode": "min_size"}, 5),
    ],
)
def test_length_of_an_epoch(options: dict, length: int) -> None:
    data = module(**options)
    batches = epoch(data)
    assert data.epoch_length() == len(batches) == length
    for batch in batches:
        assert len(batch["source"]["value"]) == 2
        assert len(batch["target"]["value"]) == options.get("target_batch_size", 2)


def test_the_smaller_domain_comes_again_in_another_order() -> None:
    batches = epoch(module(source=24, target=8, batch_size=1))
    target = values(batches, "target")
    assert sorted(values(batches, "source")) == list(range(24))
    passes = [target[start : start + 8] for start in (0, 8, 16)]
    assert all(sorted(p) == list(range(100, 108)) for p in passes)
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size", "source"])
def test_without_a_source_an_epoch_is_the_target(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    data = module(source=None, mode=mode, target_batch_size=3)
    with caplog.at_level("INFO"):
        batches = epoch(data)
    assert data.epoch_length() == len(batches) == 2 and all(batch.keys() == {"target"} for batch in batches)
    assert caplog.messages == ["An epoch is 2 iterations of 3 target samples (1 devices x batch size)."]
    beside = epoch(module(target_batch_size=3, iterations_per_epoch=2))
    assert values(batches, "target") == values(beside, "target"), "the source does not change the target's draws"
    assert fingerprints(data)["source"] is None
    assert epoch(module(source=None, iterations_per_epoch=7, batch_size=6))[6]["target"]["value"].shape == (6,)


def test_domains_and_epochs_and_seeds_have_orders_of_their_own() -> None:
    data = module(source=12, target=12)
    first = epoch(data)
    source, target = values(first, "source"), [value - 100 for value in values(first, "target")]
    assert source != target
    assert source != values(epoch(data, 1), "source")
    assert source != values(epoch(module(source=12, target=12, seed=1)), "source")
    assert source == values(epoch(module(source=12, target=12)), "source")


def test_samples_do_not_depend_on_the_number_of_workers() -> None:
    alone, together = epoch(module()), epoch(module(num_workers=2))
    for one, other in zip(alone, together, strict=True):
        for domain in ("source", "target"):
            for key in ("value", "seed"):
                assert torch.equal(one[domain][key], other[domain][key])


def test_ranks_share_the_samples_of_training_and_test() -> None:
    alone = epoch(module(source=12, target=12, batch_size=4))
    ranks = []
    for rank in range(2):
        data = module(source=12, target=12)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        ranks.append((epoch(data), [[int(b["value"]) for b in loader] for loader in data.test_dataloader()]))
    for domain in ("source", "target"):
        for step, batch in enumerate(alone):
            drawn = [ranks[rank][0][step][domain]["value"] for rank in range(2)]
            assert torch.equal(torch.stack(drawn, dim=1).flatten(), batch[domain]["value"])
    assert ranks[0][1] == [[200, 202, 204], [300, 302]]
    assert ranks[1][1] == [[201, 203], [301, 303]]


def test_test_sets_keep_names_and_order() -> None:
    data = module(eval_batch_size=2)
    assert list(data.tests) == ["a", "b"]
    assert list(data.validations) == ["c"]
    assert [batch["value"].tolist() for batch in data.test_dataloader()[1]] == [[300, 301], [302, 303]]
    assert [batch["value"].tolist() for batch in data.val_dataloader()[0]] == [[400, 401], [402]]


@pytest.mark.parametrize(
    ("options", "name"), [({"target": 1}, "target"), ({"source": 1}, "source"), ({"target_batch_size": 7}, "target")]
)
def test_a_set_smaller_than_a_batch_is_refused(options: dict, name: str) -> None:
    with pytest.raises(DataError, match=rf"\b{name}\b.*\d samples.*batch of \d.*data\.batch_size"):
        module(**options)


def test_shares_of_the_source_are_nested_and_hold_from_the_next_epoch_on() -> None:
    data = module(source=20, batch_size=1, iterations_per_epoch=60)
    loader = data.train_dataloader()
    subsets = []
    for share in (0.1, 0.25, 0.5, 1.0):
        data.use_source_share(share)
        subsets.append(set(values([batch for batch, _, _ in loader], "source")))
    assert [len(subset) for subset in subsets] == [2, 5, 10, 20]
    assert subsets[0] < subsets[1] < subsets[2] < subsets[3]

    later = module(source=20, batch_size=1, iterations_per_epoch=60)
    # Before there is a loader, as on resume.
    later.use_source_share(0.25)
    assert set(values(epoch(later), "source")) == subsets[1]
    data.use_source_share(0.001)
    assert len(set(values(epoch(data), "source"))) == 1


def test_what_devices_would_get_wrong_is_told_before_training() -> None:
    data = module()
    data.trainer = SimpleNamespace(global_rank=0, world_size=5)
    with pytest.raises(DataError, match=r"\bset b\b.*\b4 samples.*\b5 devices"):
        data.setup("fit")
    connector = SimpleNamespace(use_distributed_sampler=True)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2, _accelerator_connector=connector)
    with pytest.raises(UserError, match="use_distributed_sampler=False"):
        data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, _accelerator_connector=connector)
    data.setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_set_between_the_iterator_and_its_first_batch_counts(workers: int) -> None:
    """Lightning says which epoch it is after it has made the iterators, and callbacks prepare data then."""
    data = module(source=20, target=20, num_workers=workers, iterations_per_epoch=3)
    expected = epoch(module(source=20, target=20, iterations_per_epoch=3), 4)
    loader = data.train_dataloader()
    batches = iter(loader)
    for single in loader.flattened:
        single.sampler.set_epoch(4)
    data.target.offset = 500
    found = [next(batches)[0] for _ in range(3)]  # a loop would make new iterators
    assert values(found, "source") == values(expected, "source")
    assert values(found, "target") == [value + 400 for value in values(expected, "target")]

    for single in loader.flattened:
        single.sampler.set_epoch(0)
    batches = iter(loader)
    data.use_source_share(0.1)
    for single in loader.flattened:
        single.sampler.is_frozen = True
        single.sampler.set_epoch(7)
    assert len(set(values([next(batches)[0] for _ in range(3)], "source"))) == 2
    assert loader.flattened[0].sampler.epoch == 0
