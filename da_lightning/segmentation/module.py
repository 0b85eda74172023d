"""What all segmentation methods share: the network, its supervised loss, the test, the pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from da_lightning.arguments import checked_arguments
from da_lightning.data.source_target import set_names
from da_lightning.errors import UserError
from da_lightning.names import shown
from da_lightning.networks.base import build_part
from da_lightning.segmentation.losses import IGNORE, pixel_cross_entropy, upsampled
from da_lightning.segmentation.networks.base import Level, NetworkOptions, SegmentationNetwork
from da_lightning.segmentation.networks.sliding import Windows
from da_lightning.segmentation.networks.weights import load_weights
from da_lightning.training.evaluation import EvaluatedModule, Evaluation
from da_lightning.training.exportable import Exportable
from da_lightning.training.media import Overlay
from da_lightning.training.module import evaluating
from da_lightning.training.players import Group, Player, Term
from da_lightning.training.scores import MeanEntropy, PixelNeighbourhoodDensity, SelectionScore
from da_lightning.training.target_statistics import check_norms

LEVELS = ("segmentation", "segmentation_auxiliary")
"""Names of the losses of the first levels."""


class SegmentationModule(EvaluatedModule):
    """A segmentation network and its evaluation: IoU per class and mean, at the labels' own resolution.

    Losses call ``network``; what evaluates and predicts calls ``tested("network")``, and :meth:`forward` does.

    Args:
        classes: Class names and their colours (RGB, 0..255); the order is the class id.
        network: ``{"_target_": ..., ...}``, see :class:`~da_lightning.segmentation.networks.base.SegmentationNetwork`.
        head_lr_factor: Learning rate of the classifier heads over that of the backbone.
        auxiliary_weight: Weight of the auxiliary level's loss, where the network has that level.
        align_corners: Of every bilinear upsampling of logits; official weights want ``True``.
        init_from: Weights to begin with: a checkpoint of ours or an official state dict.
        windows: Test, label and predict whole images by windows ``{"size": ..., ...}``, see
            :class:`~da_lightning.segmentation.networks.sliding.Windows`; ``None``: each image at once.
        options: See :class:`~da_lightning.training.evaluation.EvaluatedModule`.
    """

    network: SegmentationNetwork
    objective = "target/miou"
    tested_network = "network"

    def __init__(
        self,
        classes: Mapping[str, Sequence[int]],
        network: NetworkOptions,
        head_lr_factor: float = 10.0,
        auxiliary_weight: float = 0.1,
        align_corners: bool = True,
        init_from: str | None = None,
        windows: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        # They become names of scores, on screens and in records.
        self.classes = {shown(name): colour for name, colour in classes.items()}
        self.head_lr_factor, self.auxiliary_weight = head_lr_factor, auxiliary_weight
        self.align_corners = align_corners
        self.network = build_part(network, SegmentationNetwork, "method.network", num_classes=len(self.classes))  # type: ignore[type-abstract]
        if windows is not None:
            given = checked_arguments(Windows, {"align_corners": align_corners, **windows}, "method.windows")
            self.network.windows = Windows(**given)
        if init_from:
            load_weights(self.network, init_from, self.classes)
        if self.target_statistics:
            check_norms(self.network, "method.network.bn_stats=batch")

    def forward(self, image: Tensor) -> Tensor:
        """Class logits [B, K, H, W] of an RGB image [B, 3, H, W] in [0, 1], at the image's size."""
        return upsampled(self.infer(image), image.shape[-2:], self.align_corners)

    def infer(self, image: Tensor) -> Tensor:
        """The tested network's :meth:`~da_lightning.segmentation.networks.base.SegmentationNetwork.infer`."""
        return cast(SegmentationNetwork, self.tested("network")).infer(image)

    def exportable(self, argmax: bool = False) -> Exportable:
        """Logits at the image's size, or class ids [B, H, W], uint8."""
        about = {
            "task": "segmentation",
            "classes": list(self.classes),
            "colours": list(self.classes.values()),
            "normalisation": self.network.normalisation,
        }
        return Exportable(
            _Segmenter(self, argmax),
            "label" if argmax else "logits",
            about,
            multiple=self.network.export_multiple,
            smallest=max(32, 2 * max(self.network.strides)),  # a map of one pixel is a case of its own in a graph
            is_sized=self.network.is_sized or self.network.windows is not None,
        )

    def segmenter(self) -> Player:
        """The network as a player."""
        groups = self.network.parameter_groups()
        return Player(
            [Group(groups["backbone"]), Group(groups["heads"], self.head_lr_factor)],
            self.optimizer_options,
            self.clip_norm,
            self.schedule,
        )

    def supervised(self, levels: Sequence[Level], label: Tensor) -> dict[str, Term]:
        """Cross-entropy of each level's logits, upsampled to the part of ``label`` [B, H, W] that they cover."""
        terms = {}
        for number, (logits, region, weight) in enumerate(levels):
            top, bottom, left, right = region or (0, label.shape[-2], 0, label.shape[-1])
            own = label[:, top:bottom, left:right]
            loss = pixel_cross_entropy(upsampled(logits, own.shape[-2:], self.align_corners), own)
            usual = self.auxiliary_weight if number else 1.0
            name = LEVELS[number] if number < len(LEVELS) else f"segmentation_level_{number + 1}"
            terms[name] = Term(loss, usual if weight is None else weight)
        return terms

    def player_of_network(self) -> str:
        """Name of the player that moves the network; once the optimisers are there."""
        own = {id(parameter) for parameter in self.network.parameters()}
        for name, player in self._players.items():
            if any(id(parameter) in own for parameter in player.parameters):
                return name
        raise UserError(f"None of the players of {type(self).__name__} moves its network, which is to be trained.")

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        self.network(next(iter(images.values())))

    # -- evaluation --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        view = getattr(getattr(self.trainer, "datamodule", None), "target_view", None)
        if self.network.windows and view:
            self.network.windows.places(*view.size)  # before training, not at the first test

    def begin_evaluation(self, kind: Evaluation) -> None:
        self._ious = {name: self._new_ious() for name in set_names(self.trainer, kind)}

    def _new_ious(self) -> MulticlassJaccardIndex:
        # A class that is neither in the labels nor predicted has no IoU: NaN, left out of the mean, as the benchmark
        # does.
        return MulticlassJaccardIndex(
            len(self.classes), average="none", ignore_index=IGNORE, zero_division=float("nan"), sync_on_compute=True
        ).to(self.device)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._count(list(self._ious.values())[dataloader_idx], batch)

    def _count(self, ious: MulticlassJaccardIndex, batch: dict[str, Tensor]) -> None:
        logits = upsampled(self.infer(batch["image"]), batch["label"].shape[-2:], self.align_corners)
        ious.update(logits.argmax(1), batch["label"])

    def scores(self) -> dict[str, Tensor]:
        scores = {}
        for name, metric in self._ious.items():
            ious = metric.compute()
            scores[f"{name}/miou"] = ious.nanmean()
            scores |= {f"{name}/iou/{c}": iou for c, iou in zip(self.classes, ious, strict=True)}
        return scores

    # -- selection ---------------------------------------------------------------------------------------------------

    def selection_score(
        self, score: SelectionScore, temperature: float
    ) -> Callable[[Iterable[dict[str, Tensor]]], Tensor]:
        if score in ("source", "oracle"):
            return self._miou
        return partial(
            self._unlabelled, MeanEntropy() if score == "entropy" else PixelNeighbourhoodDensity(temperature)
        )

    def _miou(self, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        ious = self._new_ious()
        for batch in batches:
            self._count(ious, batch)
        return ious.compute().nanmean()

    def _unlabelled(self, metric: Metric, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        metric = metric.to(self.device)
        for batch in batches:
            metric.update(self(batch["image"]).float().softmax(1))
        return metric.compute()

    # -- pictures ----------------------------------------------------------------------------------------------------

    def pictures(self, sample: dict[str, Tensor], domain: str) -> list[Tensor]:
        """Image, prediction and, if there is one, label of each sample; uint8 RGB [B, 3, H, W] at the image's size."""
        maps = self._label_maps(sample)
        return [(sample["image"] * 255).to(torch.uint8), *(self.coloured(ids) for ids in maps.values())]

    def overlays(self, sample: dict[str, Tensor], domain: str) -> list[Overlay]:
        images, maps = (sample["image"] * 255).to(torch.uint8), self._label_maps(sample)
        return [
            Overlay(image, {name: ids[i] for name, ids in maps.items()}, list(self.classes))
            for i, image in enumerate(images)
        ]

    @torch.no_grad()
    def _label_maps(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Class ids [B, H, W] at the image's size: ``prediction`` and what labels the sample has."""
        with evaluating(self):
            maps = {"prediction": self(sample["image"]).argmax(1)}
        for key in ("label", "pseudo_label"):
            if key in sample:
                label = sample[key][:, None].float()
                label = torch.nn.functional.interpolate(label, size=sample["image"].shape[-2:], mode="nearest")
                maps[key] = label[:, 0].long()
        return maps

    def coloured(self, label: Tensor) -> Tensor:
        """Class ids [..., H, W] as uint8 RGB [..., 3, H, W]; ignored pixels are black."""
        palette = torch.zeros(256, 3, dtype=torch.uint8, device=label.device)
        palette[: len(self.classes)] = torch.tensor(list(self.classes.values()), dtype=torch.uint8, device=label.device)
        return palette[label.long()].movedim(-1, -3)


class _Segmenter(nn.Module):
    def __init__(self, module: SegmentationModule, argmax: bool) -> None:
        super().__init__()
        self.module, self.argmax = module, argmax

    def forward(self, image: Tensor) -> Tensor:
        logits = self.module(image)
        return logits.argmax(1).to(torch.uint8) if self.argmax else logits
