"""The exemplar memory of ECN: one row for each target image, and the loss that tells an image from all others."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.errors import UserError
from da_lightning.reid.products import combinations, similarities
from da_lightning.training.ranks import world_size

CHUNK = 1024  # rows in a product: what is float32 of a half-precision bank at a time, and a good size for CPUs


class ExemplarMemory(nn.Module):
    """A feature of every target image, and the invariance loss over all of them (Zhong et al., CVPR 2019).

    Rows are zero until first seen. The loss is float32 under any autocast; :meth:`update` is called after its backward
    pass. On several ranks, each of which has a batch of the same size, the update is that of all batches, rank after
    rank: all banks stay equal, and the mean of the losses is that of the joined batch.

    Args:
        size: Target images.
        dim: Length of a feature.
        beta: Temperature of the softmax over all rows.
        neighbours: Rows that share the weight of a neighbourhood, the image's own among them; 0 has no neighbourhood.
        dtype: Of the bank; losses and updates are computed in float32.

    Attributes:
        bank: Rows ``first`` to ``first + len(bank)`` of all, [rows, dim].

    Raises:
        UserError: More neighbours or ranks than images.
    """

    bank: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        beta: float = 0.05,
        neighbours: int = 6,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.size, self.beta, self.neighbours, self.ranks, self.first = size, beta, neighbours, 1, 0
        self._check(1)
        self.register_buffer("bank", torch.zeros(size, dim, dtype=dtype))

    def _check(self, ranks: int) -> None:
        if self.size < max(self.neighbours, ranks):
            raise UserError(
                f"The target has {self.size} images, too few for method.neighbours={self.neighbours} on {ranks} "
                "rank(s): lower it, or add images."
            )

    def deal_out(self) -> None:
        """Leave each rank its part of the rows; losses and updates stay those of the whole bank."""
        if self.ranks > 1 or world_size() == 1:
            return
        self._check(world_size())
        self.ranks = world_size()
        self.bounds = [self.size * number // self.ranks for number in range(self.ranks + 1)]
        self.first, end = self.bounds[dist.get_rank() :][:2]
        self.bank = self.bank[self.first : end].clone()

    def loss(self, v: Tensor, index: Tensor, neighbourhood: bool) -> tuple[Tensor, Tensor]:
        """Cross-entropy with each image's own row (weight 1) and, if asked, its nearest rows (weight 1 / neighbours).

        An image's own row does not count twice, so the weights add up to 1 + 5/6 at most or, where it is not among the
        six nearest, to 2.

        Args:
            v: Features [B, dim], of any float type.
            index: Their rows, int64 [B].
            neighbourhood: Whether neighbours count.

        Returns:
            The mean over the batch, and the share of images whose own row is among their neighbours.
        """
        with torch.autocast(v.device.type, enabled=False):
            losses, own = _Invariance.apply(v.float(), index, self.bank, self, self.neighbours if neighbourhood else 0)
        return losses.mean(), own.float().mean()

    @torch.no_grad()
    def update(self, v: Tensor, index: Tensor, alpha: float) -> None:
        """Move rows to ``alpha * row + (1 - alpha) * v``, normalised; those of a repeated image one after another.

        Args:
            v: Features [B, dim].
            index: Their rows, int64 [B].
            alpha: Weight of the old row, 0..1.
        """
        held, row = _held(gathered(index).flatten(), self)
        v, row = gathered(v.float()).flatten(0, 1)[held], row[held]
        order = row.argsort(stable=True)
        repeats = row[order]
        turn = torch.arange(len(row), device=row.device) - torch.searchsorted(repeats, repeats)
        for number in range(int(turn.max()) + 1 if len(turn) else 0):
            chosen = order[turn == number]
            mixed = alpha * self.bank[row[chosen]].float() + (1 - alpha) * v[chosen]
            self.bank[row[chosen]] = F.normalize(mixed).to(self.bank.dtype)

    def part(self, bank: Tensor) -> Tensor:
        """This rank's rows of a whole bank [size, dim]."""
        return bank[self.first : self.first + len(self.bank)]

    def whole(self) -> Tensor:
        """The whole bank on rank 0, on the CPU where it is sharded; to be called on all ranks, no other gets it."""
        if self.ranks == 1:
            return self.bank
        parts = []
        for rank in range(self.ranks):
            rows = self.bounds[rank + 1] - self.bounds[rank]
            part = self.bank.clone() if rank == dist.get_rank() else self.bank.new_empty(rows, self.bank.shape[1])
            dist.broadcast(part, rank)
            if dist.get_rank() == 0:
                parts.append(part.cpu())
        return torch.cat(parts) if parts else self.bank


class _Invariance(torch.autograd.Function):
    """Losses [B] against all rows, and whether an image is its own neighbour, bool [B].

    With similarities s = v K^T / beta and weights w that are zero but for the own row and its neighbours, the loss is
    ``sum(w) * logsumexp(s) - w . s`` and its gradient ``(sum(w) * softmax(s) - w) K / beta``: no target as long as
    the bank is ever made, and nothing is sorted. On a sharded bank, every rank compares the features of all ranks with
    its own rows; what is exchanged are features, gradients and, for each image, ``neighbours + 2`` numbers of a shard.
    """

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, index: Tensor, bank: Tensor, memory: ExemplarMemory, neighbours: int
    ) -> tuple[Tensor, Tensor]:
        batch, sharded = len(v), memory.ranks > 1
        if sharded:
            v, index = gathered(v).flatten(0, 1), gathered(index).flatten()
        s = v.new_empty(len(v), len(bank))
        for columns, rows in zip(s.split(CHUNK, 1), bank.split(CHUNK), strict=True):
            columns.copy_(similarities(v, rows.float()))
        s.div_(memory.beta)
        held, row = _held(index, memory)
        own = s.gather(1, row[:, None]).where(held[:, None], -torch.inf)
        count = min(neighbours, len(bank))
        values, nearest = s.topk(count, 1)
        nearest = nearest + memory.first
        lse = s.logsumexp(1, keepdim=True)
        if sharded:
            padding = (0, neighbours - count)  # a shard may have fewer rows
            parts = gathered(torch.cat([lse, own, F.pad(values, padding, value=-torch.inf)], 1))
            lse, own = parts[:, :, :1].logsumexp(0), parts[:, :, 1:2].amax(0)
            values, best = parts[:, :, 2:].movedim(0, 1).flatten(1).topk(neighbours, 1)
            nearest = gathered(F.pad(nearest, padding)).movedim(0, 1).flatten(1).gather(1, best)

        if neighbours:  # rows not seen yet are equal: then the own one is the nearest, whatever the order
            tied = (own[:, 0] == values[:, -1]) & (nearest != index[:, None]).all(1)
            nearest[:, -1] = index.where(tied, nearest[:, -1])
        is_own = nearest == index[:, None]
        ids = torch.cat([index[:, None], nearest], 1)
        w = torch.cat([torch.ones_like(own), (~is_own).float() / max(neighbours, 1)], 1)
        losses = w.sum(1) * lse[:, 0] - (w * torch.cat([own, values], 1)).sum(1)
        ctx.save_for_backward(s.sub_(lse).exp_(), ids, w, bank)  # s is the softmax now
        ctx.memory, ctx.batch = memory, batch
        mine = slice(dist.get_rank() * batch, (dist.get_rank() + 1) * batch) if sharded else slice(None)
        own_is_near = is_own.any(1)[mine]
        ctx.mark_non_differentiable(own_is_near)
        return losses[mine], own_is_near

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        softmax, ids, w, bank = ctx.saved_tensors
        memory = ctx.memory
        # Lightning's manual backward runs inside the autocast of the forward pass.
        with torch.autocast(bank.device.type, enabled=False):
            if memory.ranks > 1:
                gradient = gathered(gradient).flatten()
            scale = gradient[:, None] / memory.beta
            held, row = _held(ids, memory)
            ds = softmax * (w.sum(1, keepdim=True) * scale)
            ds.scatter_add_(1, row, -w * scale * held)
            dv = ds.new_zeros(len(ds), bank.shape[1])
            for columns, rows in zip(ds.split(CHUNK, 1), bank.split(CHUNK), strict=True):
                dv += combinations(columns, rows.float())
            if memory.ranks > 1:
                dist.all_reduce(dv)
                dv = dv[dist.get_rank() * ctx.batch :][: ctx.batch]
        return dv, None, None, None, None


def _held(ids: Tensor, memory: ExemplarMemory) -> tuple[Tensor, Tensor]:
    """Whether rows ``ids`` are here, and where, 0 if they are not."""
    row = ids - memory.first
    held = (row >= 0) & (row < len(memory.bank))
    return held, row.where(held, 0)


def gathered(tensor: Tensor) -> Tensor:
    """``tensor`` of all ranks, ``[ranks, *shape]``; it has the same shape on each."""
    if world_size() == 1:
        return tensor[None]
    everyones = tensor.new_empty(world_size(), *tensor.shape)
    dist.all_gather(list(everyones), tensor.contiguous())
    return everyones
