"""The exemplar memory against its definition: dense targets, one row after another; on one process and on several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

import da_lightning
from da_lightning.errors import UserError
from da_lightning.reid.exemplar_memory import ExemplarMemory

SIZE, DIM, BATCH, NEIGHBOURS, BETA = 23, 16, 4, 6, 0.05


def batch(number: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Features as after dropout, and rows with a repetition."""
    generator = torch.Generator().manual_seed(number)
    v = F.normalize(torch.randn(size, DIM, generator=generator)) * (torch.rand(size, DIM, generator=generator) > 0.5)
    index = torch.randint(SIZE, (size,), generator=generator)
    index[-1] = index[0]
    return 2 * v, index


def by_definition(v: Tensor, index: Tensor, bank: Tensor, neighbourhood: bool) -> Tensor:
    """Sum over rows of (dense target x log softmax), mean over the batch."""
    s = v @ bank.T / BETA
    target = torch.zeros_like(s)
    if neighbourhood:
        target.scatter_(1, s.argsort(1, descending=True)[:, :NEIGHBOURS], 1 / NEIGHBOURS)
    target[torch.arange(len(v)), index] = 1
    return -(target * s.log_softmax(1)).sum(1).mean()


def updated_one_by_one(bank: Tensor, v: Tensor, index: Tensor, alpha: float) -> Tensor:
    bank = bank.clone()
    for feature, row in zip(v, index, strict=True):
        bank[row] = alpha * bank[row] + (1 - alpha) * feature
        bank[row] /= bank[row].norm()
    return bank


def filled(
    shard: bool = False, dtype: torch.dtype = torch.float32, visited: int = SIZE
) -> tuple[ExemplarMemory, Tensor]:
    """A memory and the whole bank it holds; rows from ``visited`` on were never seen."""
    bank = F.normalize(torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(9)))
    bank[visited:] = 0
    memory = ExemplarMemory(SIZE, DIM, BETA, NEIGHBOURS, dtype)
    if shard:
        memory.deal_out()
    memory.bank.copy_(memory.part(bank))
    return memory, bank


def loss_and_gradient(memory: ExemplarMemory, v: Tensor, index: Tensor, neighbourhood: bool) -> tuple[Tensor, Tensor]:
    v = v.clone().requires_grad_()
    loss, _ = memory.loss(v, index, neighbourhood)
    loss.backward()
    return loss.detach(), v.grad


def expected_loss_and_gradient(v: Tensor, index: Tensor, bank: Tensor, neighbourhood: bool) -> tuple[Tensor, Tensor]:
    v = v.double().requires_grad_()
    loss = by_definition(v, index, bank.double(), neighbourhood)
    loss.backward()
    return loss.detach().float(), v.grad.float()


@pytest.mark.parametrize("neighbourhood", [False, True])
@pytest.mark.parametrize("visited", [SIZE, 3])
def test_loss_and_gradient_are_those_of_the_dense_target(neighbourhood: bool, visited: int) -> None:
    memory, bank = filled(visited=visited)
    close = 0
    for seed in range(20):
        v, index = batch(seed, 8)
        index %= visited
        actual = loss_and_gradient(memory, v, index, neighbourhood)
        expected = expected_loss_and_gradient(v, index, bank, neighbourhood)
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-6)
        # Beyond 1e-6 one draw in thirty is, by whatever product: its rounding is divided by beta.
        torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=3e-6)
        close += torch.allclose(actual[1], expected[1], rtol=1e-5, atol=1e-6)
    assert close >= 18


def test_gradient_against_finite_differences_and_scaled_losses() -> None:
    memory, _ = filled()
    v, index = batch(1)
    _, gradient = loss_and_gradient(memory, v, index, True)
    step = 1e-3 * F.normalize(torch.randn(v.shape, generator=torch.Generator().manual_seed(3)), dim=None)
    above, below = (memory.loss(v + sign * step, index, True)[0] for sign in (1, -1))
    assert (above - below).item() / 2 == pytest.approx((gradient * step).sum().item(), rel=0.02)
    scaled = v.clone().requires_grad_()
    (3 * memory.loss(scaled, index, True)[0]).backward()
    torch.testing.assert_close(scaled.grad, 3 * gradient)


def test_an_own_row_outside_the_neighbourhood_weighs_two_in_all() -> None:
    memory, bank = filled()
    v = 1.4 * bank[:2]
    near, far = torch.tensor([0, 1]), (v @ bank.T).argmin(1)
    assert memory.loss(v, near, True)[1] == 1
    assert memory.loss(v, far, True)[1] == 0
    assert memory.loss(v, near, False)[1] == 0
    log_p = (v @ bank.T / BETA).log_softmax(1)
    nearest = log_p.topk(NEIGHBOURS).values.sum(1) / NEIGHBOURS
    expected = -(log_p.gather(1, far[:, None])[:, 0] + nearest).mean()
    assert memory.loss(v, far, True)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_of_equal_rows_the_own_one_is_the_nearest() -> None:
    memory, _ = filled(visited=0)
    v, _ = batch(3, SIZE)
    loss, own = memory.loss(v, torch.arange(SIZE), True)
    assert own == 1
    log_p = -torch.tensor(float(SIZE)).log()
    assert loss.item() == pytest.approx(-(1 + (NEIGHBOURS - 1) / NEIGHBOURS) * log_p.item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_update_is_that_of_one_row_after_another(alpha: float) -> None:
    memory, bank = filled(visited=5)
    v, _ = batch(2, 9)
    index = torch.tensor([7, 3, 7, 0, 7, 3, 1, 22, 0])
    memory.update(v, index, alpha)
    torch.testing.assert_close(memory.bank, updated_one_by_one(bank, v, index, alpha), rtol=0, atol=1e-7)
    assert not memory.bank[8:22].any()  # rows never seen: zero, not NaN


def test_a_feature_that_dropout_emptied_leaves_no_nan() -> None:
    memory, _ = filled()
    memory.update(torch.zeros(1, DIM), torch.tensor([2]), 0.0)
    assert memory.bank.isfinite().all()


def test_autocast_changes_nothing() -> None:
    memory, _ = filled()
    v, index = batch(4)
    expected = loss_and_gradient(memory, v, index, True)
    with torch.autocast("cpu", torch.bfloat16):
        actual = loss_and_gradient(memory, v, index, True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_half_precision_bank_rounds_rows_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("da_lightning.reid.exemplar_memory.CHUNK", 5)
    memory, bank = filled(dtype=torch.bfloat16)
    v, index = batch(5)
    rounded = bank.bfloat16().float()
    actual = loss_and_gradient(memory, v, index, True)
    torch.testing.assert_close(actual, expected_loss_and_gradient(v, index, rounded, True), rtol=1e-5, atol=1e-5)
    memory.update(v[:3], index[:3], 0.5)
    assert memory.bank.dtype == torch.bfloat16
    expected = updated_one_by_one(rounded, v[:3], index[:3], 0.5).bfloat16()
    torch.testing.assert_close(memory.bank, expected, rtol=0.01, atol=0)


def test_an_update_between_loss_and_backward_is_refused() -> None:
    memory, _ = filled()
    v, index = batch(6)
    v.requires_grad_()
    loss, _ = memory.loss(v, index, True)
    memory.update(v, index, 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fewer_images_than_neighbours() -> None:
    with pytest.raises(UserError, match="5 images.*neighbours=6"):
        ExemplarMemory(5, DIM)
    ExemplarMemory(5, DIM, neighbours=0)


@pytest.mark.slow
def test_two_and_three_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    paths = [str(Path(da_lightning.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [
        subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True) for rank in range(3)
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert not any(process.returncode for process in ranks), "\n".join(errors)


# -- what each of the three processes does ----------------------------------------------------------------------------


def check_ranks(rank: int, ranks: int) -> None:
    """Whole and sharded banks against one process, over steps of which some have no neighbourhood."""
    _, bank = filled()
    memories = [filled(shard)[0] for shard in (False, True)]
    assert memories[0].bank.shape[0] == SIZE > memories[1].bank.shape[0]
    for step in range(4):
        batches = [batch(10 * step + number) for number in range(ranks)]
        v, index = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loss, gradient = expected_loss_and_gradient(v, index, bank, step > 0)
        mine = slice(rank * BATCH, (rank + 1) * BATCH)
        bank = updated_one_by_one(bank, v, index, 0.1 * step)
        for memory in memories:
            own_loss, own_gradient = loss_and_gradient(memory, *batches[rank], step > 0)
            dist.all_reduce(own_loss)
            torch.testing.assert_close(own_loss / ranks, loss, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(own_gradient / ranks, gradient[mine], rtol=1e-5, atol=1e-5)
            memory.update(*batches[rank], 0.1 * step)
            torch.testing.assert_close(memory.bank, memory.part(bank), rtol=0, atol=1e-6)
        own = [memory.loss(*batches[rank], True)[1] for memory in memories]
        assert own[0] == own[1]
    whole = memories[1].whole()
    if rank == 0:
        torch.testing.assert_close(whole, bank, rtol=0, atol=1e-6)


def check_scarce_rows(ranks: int) -> None:
    """Shards of fewer rows than neighbours."""
    bank = F.normalize(torch.randn(2 * ranks + 1, DIM, generator=torch.Generator().manual_seed(7)))
    v, index = batch(8)[0], torch.arange(BATCH) % len(bank)
    memories = [ExemplarMemory(*bank.shape, BETA, 5) for _ in range(2)]
    memories[1].deal_out()
    for memory in memories:
        memory.bank.copy_(memory.part(bank))
    one, other = (loss_and_gradient(memory, v, index, True) for memory in memories)
    # Each rank differentiates its own loss; on a sharded bank, too.
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    folder, rank = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    for ranks in (3, 2):
        if rank < ranks:
            dist.init_process_group("gloo", f"file://{folder}/{ranks}", rank=rank, world_size=ranks)
            check_ranks(rank, ranks)
            check_scarce_rows(ranks)
            dist.destroy_process_group()
