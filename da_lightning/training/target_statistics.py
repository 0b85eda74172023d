"""Batch norm under the target's statistics (AdaBN: Li et al., Revisiting Batch Normalization, 2016).

Training leaves statistics of both domains, or of the source, in the batch norms. A training with
:class:`TargetStatistics` has the target's instead when it ends (and so in tests and exports), when weights are
selected, and when the target is labelled.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from da_lightning.data.source_target import SourceTargetDataModule, data_of
from da_lightning.errors import UserError
from da_lightning.training.ema import averaged_weights
from da_lightning.training.module import AdaptationModule
from da_lightning.training.norms import DomainNorm
from da_lightning.training.progress import tracked

log = logging.getLogger(__name__)


class TargetStatistics(L.Callback):
    """Leaves the target's statistics in the tested network when training ends, before the last checkpoint is saved.

    Args:
        network: Its name in the method.
    """

    def __init__(self, network: str) -> None:
        self.network = network

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(AdaptationModule, pl_module)
        if module.iterations_done >= module.total_iters:
            with averaged_weights(trainer, module):
                self.estimate(trainer, module)

    @torch.no_grad()
    def estimate(self, trainer: L.Trainer, module: AdaptationModule) -> None:
        """Give all batch norms of the tested network the statistics of the target, the same on all ranks.

        They are means over the target's training images, seen as in a test, in batches of ``data.eval_batch_size``.
        Frozen batch norms keep theirs, which ``torch.optim.swa_utils.update_bn`` would reset.
        """
        data = data_of(trainer, SourceTargetDataModule)
        network = module.tested(self.network)
        modes = [(part, part.training) for part in module.modules()]
        module.train()
        if network is not module.get_submodule(self.network):
            network.train()  # a teacher's, which keeps its mode else
        norms = {norm: norm.momentum for norm in _norms(network) if norm.training}
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        loader = data.ordered_loader(data.unlabelled_target())
        see = getattr(network, "infer", network)  # by windows, where tests see images so
        for batch in tracked(trainer, loader, "Statistics of the target", len(loader), draw=False) if norms else ():
            see(trainer.strategy.batch_to_device(batch)["image"])
        # Each rank saw its own share; all must label and test under the same statistics.
        for norm, momentum in norms.items():
            norm.momentum = momentum
            for statistic in (buffer for buffer in norm.buffers() if buffer.is_floating_point()):
                statistic.copy_(cast(Tensor, trainer.strategy.reduce(statistic, reduce_op="mean")))
        for part, was_training in modes:
            part.training = was_training


def target_statistics(trainer: L.Trainer) -> TargetStatistics | None:
    """What estimates the statistics of the target in this training, if it is tested under them."""
    return next((c for c in trainer.callbacks if isinstance(c, TargetStatistics)), None)  # type: ignore[attr-defined]


@contextmanager
def under_target_statistics(trainer: L.Trainer, module: AdaptationModule) -> Iterator[None]:
    """Inside, the tested network has the target's statistics, where it is tested under them."""
    statistics = target_statistics(trainer)
    if statistics is None:
        yield
        return
    buffers = list(module.tested(statistics.network).buffers())
    kept = [buffer.clone() for buffer in buffers]
    statistics.estimate(trainer, module)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)


def check_norms(network: nn.Module, option: str) -> None:
    """Look at a network that is to get the target's statistics; it is left in training mode.

    Args:
        option: What freezes batch norms, and what it should be, for the message.

    Raises:
        UserError: Its batch norms are frozen.
    """
    norms = _norms(network.train())
    if not norms:
        log.warning(
            "method.target_statistics=true changes nothing: %s has no batch norm. Set it to false.",
            type(network).__name__,
        )
    elif not any(norm.training for norm in norms):
        raise UserError(
            "method.target_statistics=true would write the target's statistics over those of a network whose batch "
            f"norm is frozen: set it to false, or {option}."
        )
    elif frozen := sum(not norm.training for norm in norms):
        log.info("%d of the %d batch norms are frozen and keep their statistics.", frozen, len(norms))


def _norms(network: nn.Module) -> list[_BatchNorm]:
    """Its batch norms, but for those that only source images pass."""
    of_source = {part.source for part in network.modules() if isinstance(part, DomainNorm)}
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part not in of_source]
