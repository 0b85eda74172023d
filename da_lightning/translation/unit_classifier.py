"""UNIT for adapting a classifier (Liu et al., NIPS 2017, section "Domain Adaptation")."""

from typing import Any

import lightning.pytorch as L
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from da_lightning.arguments import Share
from da_lightning.errors import UserError
from da_lightning.training.callbacks import KeepSourceOnly
from da_lightning.training.players import Backward, Batch, Step, Term, Updates
from da_lightning.translation.latent import Forward
from da_lightning.translation.losses import judged_loss
from da_lightning.translation.module import DOMAINS, ByDomain
from da_lightning.translation.networks.classifier import ClassifierDiscriminator
from da_lightning.translation.unit import UNIT

_IDLE = {"discriminator_width", "discriminator_scales", "discriminator_layers", "lr_step", "lr_gamma"}


class UNITClassifier(UNIT):
    """UNIT whose discriminators also classify: source images, and their translations under the source's labels.

    The discriminators share all layers but the first. Class losses move the discriminators alone, as in the paper.

    Args:
        num_classes: K.
        source_iters: Iterations on source labels alone, both stems on source images, before translation begins.
        class_weight: Of the cross-entropy on source images and on their translations.
        feature_weight: Of the squared distance between features of an image and of its translation.
        classifier_width, dropout: See :class:`~da_lightning.translation.networks.classifier.ClassifierDiscriminator`.
        decay_from: Share of the training after which learning rates fall linearly to 0.
        init_from: A checkpoint of ours.
        options: See :class:`~da_lightning.translation.unit.UNIT`.

    Raises:
        UserError: An option of UNIT's own discriminators or schedule, which would have no effect.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        source_iters: NonNegativeInt = 0,
        class_weight: float = 1.0,
        feature_weight: float = 0.0,
        classifier_width: PositiveInt = 64,
        dropout: Share = 0.0,
        decay_from: Share = 0.5,
        init_from: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        if idle := _IDLE & options.keys():
            raise UserError(
                f"method.{min(idle)} has no effect on UNITClassifier, whose discriminators and schedule are its own: "
                "leave it out; classifier_width and decay_from are what it takes instead."
            )
        super().__init__(**options)
        self.save_hyperparameters()
        self.objective = "target/accuracy"
        self.num_classes, self.source_iters, self.decay_from = num_classes, source_iters, decay_from
        self.class_weight, self.feature_weight = class_weight, feature_weight
        self.use_schedule(self._second_half)
        source = ClassifierDiscriminator(num_classes, classifier_width, dropout)
        self.discriminators = nn.ModuleDict({"source": source, "target": source.for_other_domain()})
        self.load_initial(init_from)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        sets = {"data.source": getattr(data, "source_view", None)} if stage == "fit" else {}
        sets |= {f"data.tests.{name}": view for name, view in getattr(data, "tests", {}).items()}
        if unlabelled := [key for key, view in sets.items() if view and not view.dataset.labelled]:
            raise UserError(
                f"UNITClassifier learns from and is tested on labels, and {unlabelled[0]} has none: take data whose "
                "images are labelled, such as data=mnist2usps."
            )
        super().setup(stage)

    def configure_callbacks(self) -> list[L.Callback]:
        return [KeepSourceOnly(self.source_iters)] if self.source_iters else []

    def _second_half(self, iteration: int) -> float:
        begins = self.decay_from * self.max_iters
        left = max(self.max_iters - iteration, 0)
        return 1.0 if iteration <= begins else left / (self.max_iters - begins)

    def updates(self, batch: Batch) -> Updates:
        self._label = batch["source"]["label"]
        if self._label.max() >= self.num_classes:
            raise UserError(
                f"Expected labels below method.num_classes={self.num_classes}, but found {int(self._label.max())} in "
                "data.source: raise it to the number of classes."
            )
        if self.iteration < self.source_iters:
            image, networks = batch["source"]["image"], self.discriminators.items()
            features = {domain: network.features(network.maps(image)) for domain, network in networks}
            terms = {f"class_{domain}": self._class_term(domain, features[domain]) for domain in DOMAINS}
            yield Backward("discriminator", terms)
            yield Step("discriminator")
        else:
            yield from super().updates(batch)

    def _discriminator_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        terms, features = {}, {}
        for domain in DOMAINS:
            network = self.discriminators[domain]
            maps = network.maps(torch.cat((images[domain], forward.translations[domain].detach())))
            terms[f"adversarial_{domain}"] = Term(judged_loss([network.judge(maps)], self.gan), self.adversarial_weight)
            features[domain] = [network.features(half) for half in maps.chunk(2)]
        (source, back), (target, translated) = features["source"], features["target"]
        terms["class_source"] = self._class_term("source", source)
        terms["class_target"] = self._class_term("target", translated)
        if self.feature_weight:
            distance = F.mse_loss(source.float(), translated.float()) + F.mse_loss(target.float(), back.float())
            terms["features"] = Term(distance, self.feature_weight)
        return terms

    def _class_term(self, domain: str, features: Tensor) -> Term:
        logits = self.discriminators[domain].classifier(features).float()
        return Term(F.cross_entropy(logits, self._label), self.class_weight)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        super().on_test_start()
        self._accuracies = {d: MulticlassAccuracy(self.num_classes, average="micro").to(self.device) for d in DOMAINS}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        domain = DOMAINS[dataloader_idx]
        classifiers: Any = self.tested("discriminators")
        self._accuracies[domain].update(classifiers[domain].classify(batch["image"]), batch["label"])
        super().test_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log_dict({f"{domain}/accuracy": metric.compute() for domain, metric in self._accuracies.items()})
