"""The data module all families share: a source and a target loader side by side, and named test sets."""

import logging
import re
from collections.abc import Sized
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader, Dataset

from da_lightning.arguments import Seed
from da_lightning.data.facts import DataFacts
from da_lightning.data.loaders import TrainingLoader
from da_lightning.data.samplers import PassSampler
from da_lightning.errors import DataError, UserError
from da_lightning.names import shown
from da_lightning.private.lightning import divides_data

log = logging.getLogger(__name__)


def check_part(name: str, key: str) -> None:
    """See that ``name`` is good for a part of a file's name.

    Raises:
        UserError: It holds a separator, or begins with a dot.
    """
    if not re.fullmatch(r"\w[^/\\\0\n]*", name):
        raise UserError(f"{key} has {name!r}, which becomes a file's name: begin it with a letter, and leave / out.")


Data = TypeVar("Data", bound="SourceTargetDataModule")


def data_of(trainer: L.Trainer, kind: type[Data], like: str = "") -> Data:
    """The data module of a training.

    Args:
        kind: What it must be.
        like: Some data of that kind, for the message.

    Raises:
        UserError: It is something else, or there is none.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, kind):
        remedy = f"choose data like {like}" if like else "give Trainer.fit(..., datamodule=<one of ours>)"
        raise UserError(f"Expected data to be {kind.__name__}, but found {type(data).__name__}: {remedy}.")
    return data


def set_names(trainer: L.Trainer, kind: Literal["val", "test"]) -> list[str]:
    """Names of the validation or test sets; without a data module of ours it is ``target``."""
    sets = getattr(getattr(trainer, "datamodule", None), "tests" if kind == "test" else "validations", None)
    return list(sets or ["target"])


@runtime_checkable
class Sizes(Protocol):
    """A set that knows how large its samples are, without reading all of them."""

    def sizes(self) -> set[tuple[int, int]]:
        """(H, W) of what must be equal for samples to make a batch; empty where it is not known."""
        ...


class SourceTargetDataModule(L.LightningDataModule):
    """Yields ``{"source": sample, "target": sample}`` in training, one named set after another otherwise.

    Without a source, batches have the target alone: for methods whose ``needs_source`` is false.

    Training sets are indexed by a :data:`~da_lightning.data.samplers.Draw`, all others by a plain index.

    Args:
        source, target: Training sets; the source may be ``None``.
        tests: Test sets by name; results are reported as ``<name>/<metric>``. Target labels exist here alone.
        validations: Labelled sets that may be watched during training; source-like, never the target.
        batch_size: Source and target samples in a batch *on each device*.
        target_batch_size: Target samples, if other than ``batch_size``.
        eval_batch_size: Samples in a validation or test batch.
        mode: Length of an epoch: until the larger domain (``max_size_cycle``), the smaller one (``min_size``) or the
            ``source`` is used up; without a source, until the target is.
        iterations_per_epoch: Length of an epoch in batches; ``None`` leaves it to ``mode``.
        num_workers: Loader processes of each domain; the samples do not depend on their number.
        pin_memory: Page-locked batches, for GPUs.
        seed: Of order and augmentation.
    """

    def __init__(
        self,
        source: Dataset | None,
        target: Dataset,
        tests: dict[str, Dataset] | None = None,
        validations: dict[str, Dataset] | None = None,
        batch_size: PositiveInt = 1,
        target_batch_size: PositiveInt | None = None,
        eval_batch_size: PositiveInt = 1,
        mode: Literal["max_size_cycle", "min_size", "source"] = "max_size_cycle",
        iterations_per_epoch: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        pin_memory: bool = False,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        for name in (*(tests or {}), *(validations or {})):
            check_part(name, "data.tests")
        self.source, self.target = source, target
        # Names become those of scores, on screens and in records.
        self.tests = {shown(name): dataset for name, dataset in (tests or {}).items()}
        self.validations = {shown(name): dataset for name, dataset in (validations or {}).items()}
        self.batch_sizes = {"source": batch_size, "target": target_batch_size or batch_size}
        if source is None:
            del self.batch_sizes["source"]
        self.eval_batch_size = eval_batch_size
        self.mode, self.iterations_per_epoch = mode, iterations_per_epoch
        self.num_workers, self.pin_memory, self.seed = num_workers, pin_memory, seed
        self._samplers: dict[str, PassSampler] = {}
        self._source_share = 1.0
        self._eval_batches: dict[int, int] = {}
        for name, dataset in self.training_sets.items():
            if (size := len(cast(Sized, dataset))) < (batch := self.batch_sizes[name]):
                raise DataError(
                    f"The {name} set has {size} samples, fewer than a batch of {batch}: lower data.batch_size."
                )

    @property
    def training_sets(self) -> dict[str, Dataset]:
        """Source and target by name, or the target alone."""
        return {name: getattr(self, name) for name in self.batch_sizes}

    def use_source_share(self, share: float) -> None:
        """Draw from a share of the source from the next epoch on; smaller shares are subsets of larger ones."""
        self._source_share = share
        if "source" in self._samplers:
            size = len(cast(Sized, self.source))
            order = torch.randperm(size, generator=torch.Generator().manual_seed(self.seed))
            self._samplers["source"].indices = sorted(order[: max(1, round(share * size))].tolist())

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def epoch_length(self, world_size: int | None = None) -> int:
        """Batches in an epoch, on each of ``world_size`` devices; ``None`` takes the trainer's number."""
        if self.iterations_per_epoch:
            return self.iterations_per_epoch
        batches = {
            name: len(cast(Sized, dataset)) // (self.batch_sizes[name] * (world_size or self._world_size))
            for name, dataset in self.training_sets.items()
        }
        if self.mode == "source":
            return max(1, batches.get("source", batches["target"]))
        return max(1, max(batches.values()) if self.mode == "max_size_cycle" else min(batches.values()))

    @property
    def facts(self) -> DataFacts:
        """What methods are made with."""
        return DataFacts()

    @property
    def training_sizes(self) -> dict[str, tuple[int, int]]:
        """(H, W) of the images in training batches, by domain, as far as they are known.

        Raises:
            DataError: Images that differ in size where they must not.
        """
        return {}

    @property
    def training_shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """[B, 3, H, W] of the images in a batch on each device, see :attr:`training_sizes`."""
        return {name: (self.batch_sizes[name], 3, *size) for name, size in self.training_sizes.items()}

    def setup(self, stage: str) -> None:
        """Look before training at what would go wrong at its end, or without a word.

        Raises:
            DataError: A test or validation set with fewer samples than there are devices.
            UserError: A trainer that would divide among the devices what is divided already.
        """
        for name, dataset in (self.tests | self.validations).items():
            if (size := len(cast(Sized, dataset))) < self._world_size:
                raise DataError(
                    f"The set {name} has {size} samples, fewer than the {self._world_size} devices: add samples, or "
                    f"use {size} devices at most."
                )
        if self._world_size > 1 and divides_data(self.trainer):
            raise UserError(
                "Each device draws its own part of the data here: give L.Trainer(use_distributed_sampler=False), or it "
                "would see a part of a part."
            )

    def unlabelled_target(self) -> Dataset:
        """The target's training images by plain index, as in a test and without labels."""
        raise NotImplementedError

    def train_dataloader(self) -> CombinedLoader:
        """The domains, of equal length by construction (so ``min_size`` cuts nothing)."""
        length = self.epoch_length()
        loaders = {}
        for name, dataset in self.training_sets.items():
            batch = self.batch_sizes[name]
            self._samplers[name] = self.training_sampler(name, len(cast(Sized, dataset)), length * batch)
            loaders[name] = TrainingLoader(dataset, batch, sampler=self._samplers[name], **self._loading)
        self.use_source_share(self._source_share)
        drawn = " and ".join(f"{batch * self._world_size} {name}" for name, batch in self.batch_sizes.items())
        log.info("An epoch is %d iterations of %s samples (%d devices x batch size).", length, drawn, self._world_size)
        return CombinedLoader(loaders, "min_size")

    def training_sampler(self, name: str, size: int, length: int) -> PassSampler:
        """What draws ``length`` of the ``size`` samples of source or target in an epoch, on this rank."""
        return PassSampler(size, length, 2 * self.seed + (name == "target"), self._rank, self._world_size)

    def val_dataloader(self) -> list[DataLoader]:
        return [self.ordered_loader(dataset) for dataset in self.validations.values()]

    def test_dataloader(self) -> list[DataLoader]:
        return [self.ordered_loader(dataset) for dataset in self.tests.values()]

    def ordered_loader(self, dataset: Dataset) -> DataLoader:
        """This rank's share of ``dataset`` in order, each sample once over all ranks.

        Samples of several sizes, which make no batch, come one at a time.
        """
        shard = range(self._rank, len(cast(Sized, dataset)), self._world_size)
        return DataLoader(dataset, self._eval_batch(dataset), sampler=shard, **self._loading)

    def _eval_batch(self, dataset: Dataset) -> int:
        if self.eval_batch_size > 1 and id(dataset) not in self._eval_batches:
            sizes = dataset.sizes() if isinstance(dataset, Sizes) else set()
            self._eval_batches[id(dataset)] = 1 if len(sizes) > 1 else self.eval_batch_size
            if len(sizes) > 1:
                named = {id(own): name for name, own in (self.tests | self.validations).items()}
                log.info(
                    "%s has samples of %d sizes, which are taken one at a time (data.eval_batch_size=%d).",
                    f"The set {named[id(dataset)]}" if id(dataset) in named else "A set",
                    len(sizes),
                    self.eval_batch_size,
                )
        return self._eval_batches.get(id(dataset), self.eval_batch_size)

    @property
    def _loading(self) -> dict[str, Any]:
        # Workers start again each epoch: persistent ones would never see a round's new pseudo labels.
        return {"num_workers": self.num_workers, "pin_memory": self.pin_memory}
