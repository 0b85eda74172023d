"""ECN: Invariance Matters: Exemplar Memory for Domain Adaptive Person Re-identification (Zhong et al., CVPR 2019)."""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from da_lightning.arguments import Share
from da_lightning.errors import CheckpointError, UserError
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.exemplar_memory import ExemplarMemory
from da_lightning.reid.module import ReidModule
from da_lightning.reid.networks.heads import Embedding
from da_lightning.training.callbacks import KeepSourceOnly, write_picture
from da_lightning.training.module import tell_of_no_adaptation
from da_lightning.training.players import Backward, Batch, Step, Term, Updates

logger = logging.getLogger(__name__)

BANK = "memory.bank"
_SHOWN = 8  # rows of pictures/camera_styles.png
OFFICIAL_NAMES = {"base": "backbone", "feat": "embedding.0", "feat_bn": "embedding.1", "classifier": "classifier"}


class ECN(ReidModule):
    """Source identification, and a target whose every image is its own class, near to its neighbours and alike under
    each camera: ``(1 - exemplar_weight) * L_source + exemplar_weight * L_target``.

    The label of a target image is its place in the file list, never a person. Source and target go through the network
    one after the other, each with the batch statistics of its own. Epochs of the schedules are the trainer's (those of
    the paper are as long as the source), counted from ``source_iters``; a resumed run goes on with them.

    Args:
        target_size: Images of the target, a row of the memory each.
        target_list: Fingerprint of their names: a memory of others is refused, or left out of ``init_from``.
        source_iters: Iterations on the source alone before the target counts, for networks without pretrained weights.
        exemplar_weight: lambda, weight of the target's loss.
        camera: Camera invariance: show target images in the styles of their other cameras, too.
        neighbours: Neighbourhood invariance: rows that share an image's neighbourhood, itself among them; 0 is without.
        neighbours_from: First epoch with neighbourhoods, counted from 0.
        beta: Temperature of the softmax over the memory.
        alpha_step: The weight of the old row in an update is ``alpha_step * epoch``.
        embedding_size: Of the memory's features; test features come before the embedding.
        dropout: After ReLU on the source, after normalising on the target.
        frozen_shortcuts: Whether shortcuts of ``backbone.frozen_stages``, too, normalise by stored statistics; the
            official code freezes by names and misses them.
        memory_dtype: Of the memory; losses and updates are computed in float32.
        shard_memory: Each device holds a part of the memory's rows, for targets beyond one device.
        options: See :class:`~da_lightning.reid.module.ReidModule`; ``init_from`` also takes official ECN checkpoints,
            memory included.
    """

    def __init__(
        self,
        target_size: PositiveInt,
        target_list: str | None = None,
        source_iters: NonNegativeInt = 0,
        exemplar_weight: Share = 0.3,
        camera: bool = True,
        neighbours: NonNegativeInt = 6,
        neighbours_from: NonNegativeInt = 5,
        beta: PositiveFloat = 0.05,
        alpha_step: NonNegativeFloat = 0.01,
        embedding_size: PositiveInt = 4096,
        dropout: Share = 0.5,
        frozen_shortcuts: bool = False,
        memory_dtype: Literal["float32", "bfloat16"] = "float32",
        shard_memory: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.source_iters, self.exemplar_weight = source_iters, exemplar_weight
        self.camera, self.dropout = camera, dropout
        self.neighbours, self.neighbours_from, self.alpha_step = neighbours, neighbours_from, alpha_step
        self.frozen_shortcuts = frozen_shortcuts
        self.target_list, self.shard_memory = target_list, shard_memory
        # Ranks update their memories alike (or hold different rows), and DDP would send rank 0's in each forward pass.
        self._ddp_params_and_buffers_to_ignore = [BANK]
        self.embedding = Embedding(self.backbone.channels, embedding_size)
        self.memory = ExemplarMemory(target_size, embedding_size, beta, neighbours, getattr(torch, memory_dtype))
        self.add_classifier(embedding_size)
        self.train()  # Lightning leaves modes as they are

    def train(self, mode: bool = True) -> "ECN":
        super().train(mode)
        if not self.frozen_shortcuts and not getattr(self.backbone, "frozen_norms", None):
            for name, module in self.backbone.named_modules():
                if name.endswith("downsample.1"):
                    module.train(mode)
        return self

    def person_logits(self, image: Tensor) -> Tensor:
        """Logits of the source's persons, [B, P]."""
        features = F.relu(self.embedding(self.pooled(image)))
        return self.classifier(F.dropout(features, self.dropout, self.training))

    def target_features(self, image: Tensor) -> Tensor:
        """What the memory is compared with and made of: float32 [B, embedding_size], of length 1 before dropout."""
        features = F.normalize(self.embedding(self.pooled(image)).float())
        return F.dropout(features, self.dropout, self.training)

    # -- training ----------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        kept = [KeepSourceOnly(self.source_iters)] if self.source_iters else []
        return [*super().configure_callbacks(), *kept]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != TrainerFn.FITTING:
            return
        data = cast(PersonDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        data.show_camera_styles(self.camera)
        if data.target_size != self.memory.size:
            raise UserError(
                f"method.target_size={self.memory.size}, but the target has {data.target_size} images: leave it out."
            )
        if self.shard_memory:  # the ranks are there now, and not before
            self.memory.deal_out()

    def on_train_start(self) -> None:
        if self.camera and self.trainer.is_global_zero:
            data = cast(PersonDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
            write_picture(self.trainer, "camera_styles", *data.camera_style_rows(_SHOWN), self.iteration)
        self.check_length(int(self.trainer.num_training_batches))

    def check_length(self, epoch: int) -> None:
        epochs = math.ceil((self.max_iters - self.source_iters) / epoch)
        tell_of_no_adaptation(self.source_iters, self.max_iters)
        if self.alpha_step * (epochs - 1) >= 1:
            raise UserError(
                f"method.alpha_step={self.alpha_step} would stop the memory at the end of {epochs} epochs of {epoch} "
                f"iterations (its product with the epoch must stay below 1): set it to {0.6 / epochs:.2g}, or, since "
                "more devices make an epoch shorter, lower method.max_iters."
            )
        if self.neighbours and 0 < epochs <= self.neighbours_from:
            logger.warning(
                "Neighbourhood invariance, from epoch %d on, never begins in %d epochs: lower method.neighbours_from.",
                self.neighbours_from,
                epochs,
            )

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        for image in images.values():
            self.target_features(image)

    def updates(self, batch: Batch) -> Updates:
        source, target = batch["source"], batch["target"]
        logits = self.person_logits(source["image"])
        identification = Term(self.identification(logits, source["person"]), 1 - self.exemplar_weight)
        if self.iteration < self.source_iters:
            yield Backward("embedder", {"identification": identification})
            yield Step("embedder")
            return
        epoch = (self.iteration - self.source_iters) // int(self.trainer.num_training_batches)
        v = self.target_features(target["image"])
        neighbourhood = self.neighbours > 0 and epoch >= self.neighbours_from
        invariance, own_in_neighbours = self.memory.loss(v, target["index"], neighbourhood)
        terms = {"identification": identification, "invariance": Term(invariance, self.exemplar_weight)}
        yield Backward("embedder", terms)
        yield Step("embedder")
        # The official update is part of backward, before the optimiser's step; that step changes neither v nor memory.
        self.memory.update(v.detach(), target["index"], self.alpha_step * epoch)
        if neighbourhood:
            self.log("train/embedder/own_in_neighbours", own_in_neighbours, batch_size=1)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        bank = self.memory.whole()
        for state in _states(checkpoint):
            state[BANK] = bank

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        bank = checkpoint["state_dict"][BANK]
        if not self._is_of_these_images(bank, checkpoint):
            raise CheckpointError(
                f"The checkpoint's memory belongs to another list of target images ({len(bank)} of them, "
                f"{self.memory.size} here): restore the files as they were, or begin a new run."
            )
        for state in _states(checkpoint):
            state[BANK] = self.memory.part(bank)

    def official_state(self, content: Mapping[str, Any]) -> dict[str, Any]:
        state = {}
        for name, value in _part(content, "state_dict", content).items():
            part, _, rest = str(name).partition(".")
            if (part, rest[:3]) != ("base", "fc."):  # ImageNet's classifier
                state[f"{OFFICIAL_NAMES.get(part, part)}.{rest}"] = value
        if "em" in (memory := _part(content, "state_dict_inv")):
            state[BANK] = memory["em"]
        return state

    def leave_out(self, state: dict[str, Any], content: Mapping[str, Any], path: str) -> None:
        super().leave_out(state, content, path)
        bank = state.get(BANK)
        if bank is None:
            state[BANK] = self.memory.bank
        elif not self._is_of_these_images(bank, content):
            logger.warning(
                "The memory begins empty: the one given is of other images (%d; the target has %d).",
                len(bank),
                self.memory.size,
            )
            state[BANK] = self.memory.bank

    def _is_of_these_images(self, bank: Tensor, content: Mapping[str, Any]) -> bool:
        known = _part(content, "hyper_parameters").get("target_list")
        return len(bank) == self.memory.size and (None in (known, self.target_list) or known == self.target_list)


def _states(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """The weights, and those that train on where the former are an average."""
    return [checkpoint[key] for key in ("state_dict", "current_model_state") if key in checkpoint]


def _part(content: Mapping[str, Any], name: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, Mapping) else default or {}
