"""SPGAN: Similarity Preserving GAN, which translates people for re-identification (Deng et al., CVPR 2018)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import PositiveInt

from da_lightning.arguments import Share
from da_lightning.reid.networks.siamese import SiaNet, attraction, repulsion
from da_lightning.reid.translated import images_of
from da_lightning.training.module import frozen
from da_lightning.training.optimizers import optimizer_options
from da_lightning.training.players import Backward, Batch, Player, Step, Term, Updates
from da_lightning.translation.cyclegan import CycleGAN
from da_lightning.translation.module import ByDomain

Negatives = Literal["paper", "tf_demo", "pytorch"]


class Shares(NamedTuple):
    """Factors of the contrastive loss: on pairs of an image and its translation (S with G(S), T with F(T)), on pairs of
    a translation and a real image of one domain (G(S) with T, F(T) with S), on pairs of real images (S with T)."""

    positive: float
    translated: float
    original: float


SHARES: dict[Negatives, dict[str, Shares]] = {
    "paper": {"generator": Shares(1, 1, 0), "siamese": Shares(1, 1, 0)},
    "tf_demo": {"generator": Shares(1 / 3, 0, 2 / 3), "siamese": Shares(1 / 3, 0, 2 / 3)},
    "pytorch": {"generator": Shares(1 / 4, 1 / 8, 0), "siamese": Shares(1 / 3, 0, 2 / 3)},
}


class SPGAN(CycleGAN):
    """CycleGAN whose translations stay near their originals in a learned embedding, and away from the other domain.

    The generators minimise ``L_adversarial + cycle_weight L_cycle + identity_weight L_identity + contrastive_weight
    L_contrastive``; then the SiaNet its own contrastive loss; then the discriminators theirs. Fakes are those made
    before the generators' step.

    Args:
        image_size: (H, W) of training images, which the SiaNet is made for.
        contrastive_weight: Of the contrastive loss in the generators' one.
        margin: Distance, of 2 at most, that negative pairs are held to have; 0 has no negatives.
        negatives: What they are, see ``SHARES``: in ``tf_demo`` two real images, which do not move the generators.
        siamese_blocks, siamese_width, siamese_hidden, siamese_embedding: See
            :class:`~da_lightning.reid.networks.siamese.SiaNet`.
        siamese_optimizer: What it leaves out, unless it has a ``name`` of its own, is as in ``optimizer``.
        siamese_from: Share of ``max_iters`` (0..1) after which the SiaNet is trained.
        contrastive_from: Share of ``max_iters`` after which the generators follow it.
        generator_every: Iterations to one update of the generators, which comes in the first of them.
        init_from, options: See :class:`~da_lightning.translation.cyclegan.CycleGAN`.

    Raises:
        UserError: Accumulated batches: steps that the players take unequally often would mix gradients.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        contrastive_weight: float = 2.0,
        margin: float = 2.0,
        negatives: Negatives = "pytorch",
        siamese_blocks: PositiveInt = 3,
        siamese_width: PositiveInt = 64,
        siamese_hidden: PositiveInt | None = 128,
        siamese_embedding: PositiveInt = 64,
        siamese_optimizer: Mapping[str, Any] | None = None,
        siamese_from: Share = 0.05,
        contrastive_from: Share = 0.1,
        generator_every: PositiveInt = 2,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.refuse_accumulation()
        self.contrastive_weight, self.margin, self.negatives = contrastive_weight, margin, negatives
        self.siamese_optimizer = optimizer_options(self.optimizer_options, siamese_optimizer)
        self.siamese_from, self.contrastive_from = siamese_from, contrastive_from
        self.generator_every = generator_every
        self.siamese = SiaNet(image_size, siamese_blocks, siamese_width, siamese_hidden, siamese_embedding)
        if init_from:
            self._load(Path(init_from))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and getattr(self.trainer, "datamodule", None) is not None:
            images_of(self.trainer)

    def players(self) -> dict[str, Player]:
        siamese = replace(self.generator_player(self.siamese), optimizer=self.siamese_optimizer)
        return super().players() | {"siamese": siamese}

    def updates(self, batch: Batch) -> Updates:
        real = self.images(batch)
        if self.iteration % self.generator_every == 0:
            fake, terms = self.generator_terms(real)
            if self.iteration >= self.contrastive_from * self.max_iters:
                with frozen(self.siamese):  # its dropout stays on
                    terms |= self.contrastive_terms("generator", real, fake, self.contrastive_weight)
            yield Backward("generator", terms)
            yield Step("generator")
            fake = {domain: image.detach() for domain, image in fake.items()}
        else:
            with torch.no_grad():
                fake = self.fakes(real)
        if self.iteration >= self.siamese_from * self.max_iters:
            yield Backward("siamese", self.contrastive_terms("siamese", real, fake))
            yield Step("siamese")
        yield Backward("discriminator", self.discriminator_terms(real, fake))
        yield Step("discriminator")

    def contrastive_terms(self, player: str, real: ByDomain, fake: ByDomain, weight: float = 1.0) -> dict[str, Term]:
        """Similarity of each image and its translation, dissimilarity of domains, as ``player`` sees them."""
        shares = SHARES[self.negatives][player]
        images = torch.cat([real["source"], fake["target"], real["target"], fake["source"]])
        source, source_as_target, target, target_as_source = self.siamese(images).chunk(4)
        similarity = attraction(source, source_as_target) + attraction(target, target_as_source)
        terms = {"similarity": Term(similarity, weight * shares.positive)}
        if shares.translated:
            pairs = (source_as_target, target), (target_as_source, source)
            dissimilarity = torch.stack([repulsion(*pair, self.margin) for pair in pairs]).sum()
            terms["dissimilarity"] = Term(dissimilarity, weight * shares.translated)
        if shares.original:
            terms["dissimilarity"] = Term(repulsion(source, target, self.margin), weight * shares.original)
        return terms
