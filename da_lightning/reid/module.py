"""What all re-identification methods share: backbone, classifier over the source's persons, ranking test, pictures."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as L
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.arguments import Share
from da_lightning.data.source_target import set_names
from da_lightning.data.views import Interpolation, Resize
from da_lightning.errors import UserError
from da_lightning.networks.base import build_part
from da_lightning.reid.distances import Distance
from da_lightning.reid.networks.base import Backbone, BackboneOptions
from da_lightning.reid.networks.heads import PersonClassifier
from da_lightning.reid.pictures import RankingPicture
from da_lightning.reid.ranking import Ranking
from da_lightning.training.checkpoints import read_checkpoint
from da_lightning.training.evaluation import EvaluatedModule, Evaluation
from da_lightning.training.exportable import Exportable
from da_lightning.training.players import Group, Player
from da_lightning.training.schedules import steps
from da_lightning.training.scores import NeighbourhoodDensity, SelectionScore
from da_lightning.training.target_statistics import check_norms
from da_lightning.training.weights import check_children, tested_weights

logger = logging.getLogger(__name__)


class ReidModule(EvaluatedModule):
    """A backbone, a classifier of source persons, and the ranking of galleries by the backbone's features.

    A subclass ends its constructor with :meth:`add_classifier`.

    Args:
        backbone: ``{"_target_": ..., ...}``, see :class:`~da_lightning.reid.networks.base.Backbone`.
        backbone_lr_factor: Learning rate of the backbone over that of what follows it.
        decay_at: Shares of ``max_iters`` (0..1) at which learning rates are multiplied by ``decay_factor``.
        label_smoothing: Share of the wanted probability spread over all persons.
        stripes: Horizontal stripes of the last map whose maxima are the test feature, one after the other (local max
            pooling, SPGAN); ``None``: the average over the map. Training is by the average in any case.
        flip_average: Test features are the mean over an image and its mirror image.
        distance: Of test features.
        rerank: Also report k-reciprocal re-ranking, as ``reranked_*``.
        num_persons: Persons of the source, for methods with a classifier.
        image_size, interpolation: (H, W) of test images and how they are resized to it, for prediction.
        init_from: Weights to begin with: a checkpoint of ours, or what :meth:`official_state` knows. A classifier of
            another number of persons is left out.
        max_iters, options: See :class:`~da_lightning.training.evaluation.EvaluatedModule`.
    """

    objective = "target/map"
    tested_network = "backbone"

    def __init__(
        self,
        backbone: BackboneOptions,
        max_iters: PositiveInt,
        backbone_lr_factor: float = 0.1,
        decay_at: Sequence[Share] = (2 / 3,),
        decay_factor: float = 0.1,
        label_smoothing: Share = 0.0,
        stripes: PositiveInt | None = None,
        flip_average: bool = False,
        distance: Distance = "cosine",
        rerank: bool = False,
        num_persons: int | None = None,
        image_size: tuple[int, int] | None = None,
        interpolation: Interpolation | None = None,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(max_iters=max_iters, **options)
        self.backbone_lr_factor = backbone_lr_factor
        self.use_schedule(steps(max_iters, decay_factor, decay_at))
        self.label_smoothing = label_smoothing
        self.stripes, self.flip_average, self.distance, self.rerank = stripes, flip_average, distance, rerank
        self.num_persons, self.image_size, self.interpolation = num_persons, image_size, interpolation
        self.init_from = init_from
        self.backbone = build_part(backbone, Backbone, "method.backbone")  # type: ignore[type-abstract]
        if self.target_statistics:
            check_norms(self.backbone, "method.backbone.frozen_norms=null")

    # -- what a method builds on -------------------------------------------------------------------------------------

    def add_classifier(self, inputs: int, bias: bool = True) -> None:
        """End a constructor: add ``self.classifier`` over ``inputs`` features, and load ``init_from``."""
        if self.num_persons is None:
            raise UserError(
                "Expected method.num_persons to be the number of the source's persons, but found none: give it, or "
                "take that of the data module, data.facts.num_persons."
            )
        self.classifier = PersonClassifier(inputs, self.num_persons, bias=bias)
        if self.init_from:
            self._load(self.init_from)

    def official_state(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The weights in a file that is not ours, under our names."""
        return {str(name): value for name, value in content.items()}

    def pooled(self, image: Tensor, backbone: nn.Module | None = None) -> Tensor:
        """Maps of RGB images [B, 3, H, W] in [0, 1], averaged (pool5): [B, channels].

        Args:
            backbone: In place of the method's own: a teacher, or ``tested("backbone")`` in what tests call.
        """
        return (self.backbone if backbone is None else backbone)(image).mean((2, 3))

    def identification(self, logits: Tensor, person: Tensor) -> Tensor:
        """Cross-entropy of the classifier's ``logits`` [B, P] with ``person`` [B], mean over the batch, in float32."""
        return F.cross_entropy(logits.float(), person, label_smoothing=self.label_smoothing)

    def describe(self, image: Tensor) -> Tensor:
        """Test features of images as they are, [B, D]; by networks that are :meth:`tested`."""
        backbone = self.tested("backbone")
        if self.stripes is None:
            return self.pooled(image, backbone)
        # Not adaptive_max_pool2d, which ONNX has no form of.
        maps = backbone(image)
        rows = maps.shape[2]
        bounds = [(n * rows // self.stripes, -(-(n + 1) * rows // self.stripes)) for n in range(self.stripes)]
        return torch.stack([maps[:, :, first:end].amax((2, 3)) for first, end in bounds], 2).flatten(1)

    def embed(self, image: Tensor) -> Tensor:
        """Test features of RGB images [B, 3, H, W] in [0, 1]: float32 [B, D], not normalised."""
        features = self.describe(image).float()
        return (features + self.describe(image.flip(3)).float()) / 2 if self.flip_average else features

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(image)

    def exportable(self) -> Exportable:
        """Test features of length 1, float32 [B, D], of images of the size that rankings are made at."""
        about = {
            "task": "re-identification",
            "interpolation": self.test_resize.interpolation.value,
            "distance": self.distance,
            "normalisation": self.backbone.normalisation,
        }
        return Exportable(_Embedder(self), "feature", about, size=self.image_size)

    @property
    def test_resize(self) -> Resize:
        """How test images are resized.

        Raises:
            UserError: A checkpoint that does not record it.
        """
        if self.image_size is None or self.interpolation is None:
            raise UserError("The checkpoint does not record an image size: set method.image_size in training.")
        return Resize(self.image_size, self.interpolation)

    # -- training ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        persons = getattr(getattr(self.trainer, "datamodule", None), "num_persons", None)
        if stage == "fit" and None not in (persons, self.num_persons) and persons != self.num_persons:
            raise UserError(
                f"method.num_persons={self.num_persons}, but the source has {persons} persons: leave num_persons out."
            )

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        getattr(self, "embedding", nn.Identity())(self.pooled(next(iter(images.values()))))

    def players(self) -> dict[str, Player]:
        backbone = {id(p) for p in self.backbone.parameters()}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            Group([p for p in trained if id(p) in backbone], self.backbone_lr_factor),
            Group([p for p in trained if id(p) not in backbone]),
        ]
        return {"embedder": Player(groups, self.optimizer_options, self.clip_norm, self.schedule)}

    def configure_callbacks(self) -> list[L.Callback]:
        return [RankingPicture(), *super().configure_callbacks()]

    def _load(self, path: str) -> None:
        content = read_checkpoint(path)
        ours = content.get("state_dict") if "hyper_parameters" in content else None
        state = dict(tested_weights(content) if isinstance(ours, Mapping) else self.official_state(content))
        self.leave_out(state, content, path)
        check_children(self, state, path)
        self.load_state_dict(state, strict=False)

    def leave_out(self, state: dict[str, Any], content: Mapping[str, Any], path: str) -> None:
        """Take from ``state`` what belongs to other persons or images than those here.

        Args:
            state: Weights of ``init_from``, by our names.
            content: The whole file, at ``path``.
        """
        own = self.state_dict()
        classifier = [name for name in state if name.startswith("classifier.")]
        if any(name not in own or own[name].shape != state[name].shape for name in classifier):
            logger.warning("The classifier in %s is left out: the persons here are %d.", path, self.num_persons)
            for name in classifier:
                del state[name]

    # -- evaluation --------------------------------------------------------------------------------------------------

    def begin_evaluation(self, kind: Evaluation) -> None:
        loaders: Any = getattr(self.trainer, f"{kind}_dataloaders")
        self.rankings = {}
        if self.trainer.sanity_checking:  # some batches, which may have no gallery
            return
        whole = [len(loader) for loader in (loaders if isinstance(loaders, list) else [loaders])]
        if list(getattr(self.trainer, f"num_{kind}_batches")) != whole:
            logger.warning(
                "trainer.limit_%s_batches leaves out a part of queries and gallery: nothing is ranked.", kind
            )
            return
        rerank = self.rerank and kind == "test"
        self.rankings = {name: Ranking(self.distance, rerank).to(self.device) for name in set_names(self.trainer, kind)}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        features = self.embed(batch["image"])
        if self.rankings:
            ranking = list(self.rankings.values())[dataloader_idx]
            ranking.update(features, batch["person"], batch["camera"], batch["is_query"])

    def scores(self) -> dict[str, Tensor]:
        rankings = self.rankings.items()
        return {f"{name}/{key}": value for name, ranking in rankings for key, value in ranking.compute().items()}

    # -- selection ---------------------------------------------------------------------------------------------------

    def selection_score(
        self, score: SelectionScore, temperature: float
    ) -> Callable[[Iterable[dict[str, Tensor]]], Tensor]:
        if score == "entropy":
            raise UserError(
                "selection=entropy makes no sense for re-identification, whose classifier knows the source's persons "
                "and nobody of the target: give selection=snd or selection=source."
            )
        return partial(self._density, temperature) if score == "snd" else self._map

    def _density(self, temperature: float, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        density = NeighbourhoodDensity(temperature).to(self.device)
        for batch in batches:
            density.update(self.embed(batch["image"]), batch["index"])
        return density.compute()

    def _map(self, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        ranking = Ranking(self.distance).to(self.device)
        for batch in batches:
            ranking.update(self.embed(batch["image"]), batch["person"], batch["camera"], batch["is_query"])
        return ranking.compute()["map"]


class _Embedder(nn.Module):
    def __init__(self, module: ReidModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.module.embed(image))
