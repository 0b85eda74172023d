"""Ranges of unequal lengths, one after the other."""

import torch
from torch import Tensor


def spans(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All of ``counts[i]`` places from ``starts[i]`` on, for each i; int64 [n].

    Returns:
        For each place: i, how many of i's came before it, and the place.
    """
    owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    number = torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
    return owner, number, starts[owner] + number
