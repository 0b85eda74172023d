"""What the processes of a training do together in a step.

Gradients are reduced once a step, when a player steps, by one plain sum over ranks, and DDP's own reduction is off. DDP
reduces while the last backward pass runs, and takes every parameter of every player to have a gradient in it. Here a
player's last backward pass is not known before the next thing that its method says, and each pass reaches one player's
parameters. On two processes on a CPU a step with the plain sum takes 0.92 to 1.02 of the time (``python -m
benchmarks.gradient_reduction``); on GPUs it has not been measured. DDP still gives all ranks the same first weights and
buffers.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from da_lightning.errors import UserError

BUCKET = 2**21
"""Numbers that are reduced at once: what they are copied to is no larger than that, or the largest parameter."""


def check_whole_parameters(strategy: Strategy) -> None:
    """Raise under strategies that shard parameters."""
    if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
        raise UserError(
            f"trainer.strategy={type(strategy).__name__} cannot work: several players step in turn, each by gradients "
            "that are whole on every device, which strategies that shard parameters do not have: give ddp."
        )


@contextmanager
def without_ddp_reduction(trainer: L.Trainer) -> Iterator[None]:
    """Inside, backward passes leave each rank with gradients of its own."""
    model = trainer.model
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def agreed(is_fine: bool, place: str, device: torch.device) -> bool:
    """Whether all ranks are fine.

    Args:
        place: Where this rank is in its step, in words.

    Raises:
        RuntimeError: On every rank, if they are at different places.
    """
    if world_size() == 1:
        return is_fine
    here = zlib.crc32(place.encode())
    found = torch.tensor([not is_fine, here, -here], dtype=torch.float64, device=_exact(device))
    dist.all_reduce(found, dist.ReduceOp.MAX)
    problem, most, least = found.tolist()
    if most != -least:
        raise RuntimeError(
            f"Rank {dist.get_rank()} is at {place}, and another rank is elsewhere. All ranks must say the same "
            "sequence of Backward and Step: decide by what is the same on all of them (iteration, options), not by "
            "what is in a rank's own batch."
        )
    return not problem


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the mean of their gradients; one that is missing on some counts as 0, on all it stays missing."""
    if world_size() == 1:
        return
    running = []
    for bucket in _buckets([parameter for parameter in parameters if parameter.requires_grad]):
        first = bucket[0]
        has = torch.tensor([p.grad is not None for p in bucket], dtype=first.dtype, device=first.device)
        joined = torch.cat([*map(_flat, bucket), has]).mul_(1 / world_size())
        running.append((bucket, joined, dist.all_reduce(joined, async_op=True)))
    for bucket, joined, work in running:
        work.wait()
        *means, has = joined.split([*(p.numel() for p in bucket), len(bucket)])
        for parameter, mean, is_there in zip(bucket, means, has.tolist(), strict=True):
            if not is_there:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(mean.view_as(parameter))


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In their order, parameters of one type and device together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        is_other = bucket and (parameter.dtype, parameter.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (is_other or size + parameter.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _flat(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()


def _exact(device: torch.device) -> torch.device:
    return torch.device("cpu") if dist.get_backend() == "gloo" else device


def world_size() -> int:
    """How many processes train; 1 where they have not been joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
