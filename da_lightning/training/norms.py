"""Batch norm by domain, and batch norm on several devices.

Domain-specific batch norm (Chang et al., CVPR 2019) has statistics, scale and shift of its own for each domain. A
method's constructor converts a network when its weights are loaded, ``self.network = separate_norms(self.network)``,
and passes source images under ``with source_norms(self.network):``. Whatever else passes, mixed and masked images,
too, is the target's.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from da_lightning.errors import UserError

log = logging.getLogger(__name__)

_DOMAINS = ("source", "target")


class DomainNorm(nn.Module):
    """A batch norm of the source and one of the target, both with the state of ``norm`` at first.

    State dicts of a plain batch norm fill both.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.source, self.target = norm, deepcopy(norm)
        self.is_source, self.in_eval = False, False
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        is_source = self.is_source and (self.training or self.in_eval)
        return (self.source if is_source else self.target)(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in self.target.state_dict():
            if prefix + name in state_dict:
                value = state_dict.pop(prefix + name)
                state_dict.update({f"{prefix}{domain}.{name}": value for domain in _DOMAINS})
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def separate_norms(network: nn.Module) -> nn.Module:
    """Give each batch norm of ``network`` a copy for the source and one for the target; before optimisers are made.

    Frozen scales and shifts stay frozen. Norms that normalise by frozen statistics are left alone, for there is nothing
    to separate.

    Returns:
        ``network``, or what stands for it where it is a batch norm itself.

    Raises:
        UserError: All batch norms have frozen statistics, or there is none.
    """
    if any(isinstance(part, DomainNorm) for part in network.modules()):
        return network
    modes = {part: part.training for part in network.modules()}
    network.train()
    norms = {part: part.training for part in network.modules() if isinstance(part, _BatchNorm)}
    for part, mode in modes.items():
        part.training = mode
    left = sum(not is_live for is_live in norms.values())
    if left == len(norms):
        why = "the statistics of its batch norms are frozen" if norms else "it has no batch norm"
        raise UserError(
            f"Expected batch norms in {type(network).__name__} that can have statistics of their own for each domain, "
            f"but {why}: leave out what separates the domains, or choose a network with live batch norms."
        )
    if left:
        log.info("%d of %d batch norms have frozen statistics and stay one for both domains.", left, len(norms))
    separate: dict[nn.Module, nn.Module] = {norm: DomainNorm(norm) for norm, is_live in norms.items() if is_live}
    for parent in [parent for parent in network.modules() if parent not in separate]:
        for name, child in parent._modules.items():  # under all names that it has
            if child in separate:
                setattr(parent, name, separate[child])
    return separate.get(network, network)


def folded(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict of a network with a batch norm by domain as that of a plain one, with the target's."""
    ends = [f"{domain}.running_mean" for domain in _DOMAINS]
    places = {name.removesuffix(ends[0]) for name in state if name.endswith(ends[0])}
    result = dict(state)
    for place in (place for place in places if place + ends[1] in state):
        result = {name: value for name, value in result.items() if not name.startswith(f"{place}source.")}
        target = f"{place}target."
        result = {
            place + name.removeprefix(target) if name.startswith(target) else name: result[name] for name in result
        }
    return result


@contextmanager
def source_norms(*networks: nn.Module, in_eval: bool = False) -> Iterator[None]:
    """Inside, images that pass through ``networks`` are the source's.

    Args:
        in_eval: In eval mode, too, where the target's norms are meant otherwise: for a test on the source, say.
    """
    norms = [part for network in networks for part in network.modules() if isinstance(part, DomainNorm)]
    before = [(norm.is_source, norm.in_eval) for norm in norms]
    for norm in norms:
        norm.is_source, norm.in_eval = True, in_eval
    try:
        yield
    finally:
        for norm, (is_source, was_in_eval) in zip(norms, before, strict=True):
            norm.is_source, norm.in_eval = is_source, was_in_eval


def check_plain_norms(network: nn.Module) -> None:
    """Refuse batch norms that do more than normalise, where they would be replaced by torch's synchronised ones.

    Raises:
        UserError: There is one: timm's have an activation inside.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    other = {type(part).__name__ for part in network.modules() if isinstance(part, _BatchNorm)}
    if other := other - {kind.__name__ for kind in plain}:
        raise UserError(
            f"trainer.sync_batchnorm=true would replace {', '.join(sorted(other))} by torch's batch norm, which lacks "
            "the activation inside: leave it out, or choose another network."
        )


def share_statistics(network: nn.Module) -> None:
    """Give all ranks the batch-norm statistics of the first (DDP does so in automatic optimisation alone)."""
    for norm in (part for part in network.modules() if isinstance(part, _BatchNorm)):
        for buffer in norm.buffers():
            torch.distributed.broadcast(buffer, 0)
