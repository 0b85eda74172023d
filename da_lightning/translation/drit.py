"""DRIT++: Diverse Image-to-Image Translation via Disentangled Representations (Lee et al., ECCV 2018 and IJCV 2020)."""

from dataclasses import replace
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.training.losses import gan_loss
from da_lightning.training.module import frozen
from da_lightning.training.players import Backward, Batch, Group, Player, Step, Term, Updates
from da_lightning.translation.linear_decay import LinearDecayTranslation
from da_lightning.translation.losses import discriminator_loss, generator_loss, l1, mean_square
from da_lightning.translation.module import DOMAINS, ByDomain, Domain, other
from da_lightning.translation.networks.discriminators import MultiScaleDiscriminator
from da_lightning.translation.networks.drit import (
    SLOPE,
    AttributeEncoder,
    ConcatGenerator,
    ContentDiscriminator,
    ContentEncoder,
    FeatureWiseGenerator,
    PointAttributeEncoder,
    initialise_convolutions,
    official_state,
)
from da_lightning.translation.weights import load_weights

CONTENT_LABELS: dict[Domain, float] = {"source": 0.0, "target": 1.0}
"""What the content discriminator calls the domains; the encoder wants to hear 0.5."""


class DRIT(LinearDecayTranslation):
    """A content code that no discriminator can assign to a domain, and an attribute code of each domain.

    ``content_iters`` iterations move the content discriminator alone, then one moves all: the discriminators; encoders
    and generator; and once more generator and content encoder, for translations under random attributes. That second
    step has a forward pass of its own (same attributes, new content noise), so that its gradient belongs to the weights
    it moves; the official code goes back once more through the graph of weights that the first step has changed.

    Of each domain's batch the first half is translated, and the second is what translations under random attributes
    are held against.

    Args:
        concat: Lay the attribute code beside the maps, which keeps shapes; ``False`` mixes it into the features.
        style_dim: Length of the attribute code.
        width: Channels of the encoders' first layer.
        residuals: Residual blocks of each domain in the content encoder; the generator has one more.
        discriminator_width, discriminator_scales, discriminator_layers: Of the four image discriminators, see
            :class:`~da_lightning.translation.networks.discriminators.MultiScaleDiscriminator`.
        content_layers: Layers of stride 2 in the content discriminator.
        content_iters: Iterations of the content discriminator alone before each full one.
        content_lr_factor, content_clip_norm: Of the content discriminator.
        adversarial_weight, content_weight: Of fooling the image discriminators, and the content discriminator.
        cycle_weight, reconstruction_weight: Of the L1 distances of round trips, and of reconstructions.
        kl_weight: Of the codes' divergence from N(0, 1).
        regression_weight: Of the L1 distance of a random attribute code to that of the translation it led to.
        mode_seeking_weight: Of how far two attribute codes lie apart over how far their translations do; 0 costs
            nothing.
        init_from: A checkpoint of ours or an official file.
        options: See :class:`~da_lightning.translation.linear_decay.LinearDecayTranslation`.

    Raises:
        UserError: Accumulated batches: the two steps of an iteration would mix gradients.
    """

    def __init__(
        self,
        concat: bool = True,
        style_dim: PositiveInt = 8,
        width: PositiveInt = 64,
        residuals: NonNegativeInt = 3,
        discriminator_width: PositiveInt = 64,
        discriminator_scales: PositiveInt = 3,
        discriminator_layers: PositiveInt = 4,
        content_layers: NonNegativeInt = 3,
        content_iters: NonNegativeInt = 2,
        content_lr_factor: float = 0.4,
        content_clip_norm: PositiveFloat | None = 5.0,
        adversarial_weight: float = 1.0,
        content_weight: float = 1.0,
        cycle_weight: float = 10.0,
        reconstruction_weight: float = 10.0,
        kl_weight: float = 0.01,
        regression_weight: float = 10.0,
        mode_seeking_weight: float = 1.0,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.refuse_accumulation()
        self.concat, self.style_dim = concat, style_dim
        self.content_iters, self.content_lr_factor = content_iters, content_lr_factor
        self.content_clip_norm = content_clip_norm
        self.adversarial_weight, self.content_weight = adversarial_weight, content_weight
        self.cycle_weight, self.reconstruction_weight = cycle_weight, reconstruction_weight
        self.kl_weight, self.regression_weight = kl_weight, regression_weight
        self.mode_seeking_weight = mode_seeking_weight

        def discriminators() -> nn.ModuleDict:
            shape = discriminator_width, discriminator_scales, discriminator_layers
            return nn.ModuleDict({domain: MultiScaleDiscriminator(*shape, slope=SLOPE) for domain in DOMAINS})

        encoder = AttributeEncoder if concat else PointAttributeEncoder
        generator = ConcatGenerator if concat else FeatureWiseGenerator
        self.content_encoder = ContentEncoder(width, residuals)
        self.attribute_encoders = nn.ModuleDict({domain: encoder(width, style_dim) for domain in DOMAINS})
        self.generator = generator(width, style_dim, residuals)
        self.discriminators, self.random_discriminators = discriminators(), discriminators()
        self.content_discriminator = ContentDiscriminator(4 * width, content_layers)
        initialise_convolutions(self)
        if init_from:
            load_weights(self, init_from, official_state)

    def players(self) -> dict[str, Player]:
        discriminator = self.discriminator_player(self.discriminators, self.random_discriminators)
        content = [Group(list(self.content_discriminator.parameters()), self.content_lr_factor)]
        return {
            "generator": self.generator_player(self.content_encoder, self.attribute_encoders, self.generator),
            "discriminator": discriminator,
            "content_discriminator": replace(discriminator, groups=content, clip_norm=self.content_clip_norm),
        }

    # -- translation -------------------------------------------------------------------------------------------------

    def generate(self, image: Tensor, to: Domain, style: Tensor | None) -> Tensor:
        return self.tested("generator")(self.tested("content_encoder")(image, other(to)), style, to)

    def encode_style(self, image: Tensor, domain: Domain) -> Tensor:
        """The mean of the attribute code (official code draws from its distribution, at test time too)."""
        return self._mean_style(self.tested("attribute_encoders"), image, domain)

    def _mean_style(self, encoders: Any, image: Tensor, domain: Domain) -> Tensor:
        code = encoders[domain](image)
        return code[0] if self.concat else code

    # -- training ----------------------------------------------------------------------------------------------------

    def updates(self, batch: Batch) -> Updates:
        images, shown = self._halves(batch)
        if self.iteration % (self.content_iters + 1) < self.content_iters:
            with torch.no_grad():
                contents = self._contents(images)
            yield Backward("content_discriminator", self._content_terms(contents))
            yield Step("content_discriminator")
            return

        contents = self._contents(images)
        styles, terms = self._styles(images)
        translations, reconstructions = {}, {}
        for domain in DOMAINS:
            both = torch.cat([contents[other(domain)], contents[domain]])
            decoded = self.generator(both, styles[domain].repeat(2, 1), domain)
            translations[domain], reconstructions[domain] = decoded.chunk(2)
        drawn = [torch.randn_like(styles["source"]) for _ in range(2 if self.mode_seeking_weight else 1)]
        with torch.no_grad():
            random = self._random_translations(contents, drawn)

        yield Backward("discriminator", self._discriminator_terms(images, shown, translations, random))
        yield Step("discriminator")
        yield Backward("content_discriminator", self._content_terms(contents))
        yield Step("content_discriminator")

        contents_again = {other(domain): self.content_encoder(translations[domain], domain) for domain in DOMAINS}
        styles_again, _ = self._styles(translations)
        for domain in DOMAINS:
            cycle = self.generator(contents_again[domain], styles_again[domain], domain)
            reconstruction = l1(reconstructions[domain], images[domain])
            adversarial = generator_loss(self.discriminators[domain], translations[domain], "vanilla")
            with frozen(self.content_discriminator):
                confusion = gan_loss(self.content_discriminator(contents[domain]), 0.5, "vanilla")
            terms |= {
                f"adversarial_{domain}": Term(adversarial, self.adversarial_weight),
                f"content_{domain}": Term(confusion, self.content_weight),
                f"content_kl_{domain}": Term(mean_square(contents[domain]), self.kl_weight),
                f"cycle_{domain}": Term(l1(cycle, images[domain]), self.cycle_weight),
                f"reconstruction_{domain}": Term(reconstruction, self.reconstruction_weight),
            }
        yield Backward("generator", terms)
        yield Step("generator")

        again = self._random_translations(self._contents(images), drawn)
        yield Backward("generator", self._random_terms(again, drawn))
        yield Step("generator")

    def _halves(self, batch: dict[str, dict[str, Tensor]]) -> tuple[ByDomain, ByDomain]:
        images = self.images(batch)
        count = len(images["source"]) // 2
        if count == 0:
            raise UserError("Expected at least two images of each domain in a batch for DRIT: raise data.batch_size.")
        first, second = slice(count), slice(count, 2 * count)
        return {d: image[first] for d, image in images.items()}, {d: image[second] for d, image in images.items()}

    def _contents(self, images: ByDomain) -> ByDomain:
        return {domain: self.content_encoder(images[domain], domain) for domain in DOMAINS}

    def _styles(self, images: ByDomain) -> tuple[ByDomain, dict[str, Term]]:
        """Attribute codes, drawn where they are distributions, and their divergences from N(0, 1)."""
        styles, terms = {}, {}
        for domain in DOMAINS:
            if self.concat:
                mean, log_variance = self.attribute_encoders[domain](images[domain])
                variance = log_variance.exp()
                styles[domain] = mean + variance.sqrt() * torch.randn_like(mean)
                kl = 0.5 * (mean.square() + variance - 1 - log_variance).sum(1).mean()
            else:
                styles[domain] = self.attribute_encoders[domain](images[domain])
                kl = mean_square(styles[domain])
            terms[f"kl_{domain}"] = Term(kl, self.kl_weight)
        return styles, terms

    def _random_translations(self, contents: ByDomain, drawn: list[Tensor]) -> dict[Domain, tuple[Tensor, ...]]:
        """For each of ``drawn``, the images that have it as attribute code and content from the other domain."""
        repeated = {domain: content.repeat(len(drawn), 1, 1, 1) for domain, content in contents.items()}
        styles = torch.cat(drawn)
        return {d: self.generator(repeated[other(d)], styles, d).chunk(len(drawn)) for d in DOMAINS}

    def _content_terms(self, contents: ByDomain) -> dict[str, Term]:
        scores = {domain: self.content_discriminator(contents[domain].detach()) for domain in DOMAINS}
        return {domain: Term(gan_loss(scores[domain], CONTENT_LABELS[domain], "vanilla")) for domain in DOMAINS}

    def _discriminator_terms(
        self, images: ByDomain, shown: ByDomain, translations: ByDomain, random: dict[Domain, tuple[Tensor, ...]]
    ) -> dict[str, Term]:
        terms = {}
        for domain in DOMAINS:
            own, second = self.discriminators[domain], self.random_discriminators[domain]
            loss = discriminator_loss(own, images[domain], translations[domain], "vanilla")
            losses = [discriminator_loss(second, shown[domain], fake, "vanilla") for fake in random[domain]]
            terms[f"adversarial_{domain}"] = Term(loss)
            terms[f"random_adversarial_{domain}"] = Term(torch.stack(losses).sum())
        return terms

    def _random_terms(self, random: dict[Domain, tuple[Tensor, ...]], drawn: list[Tensor]) -> dict[str, Term]:
        terms = {}
        for domain in DOMAINS:
            losses = [generator_loss(self.random_discriminators[domain], fake, "vanilla") for fake in random[domain]]
            with frozen(self.attribute_encoders):
                regressed = self._mean_style(self.attribute_encoders, random[domain][0], domain)
            terms[f"random_adversarial_{domain}"] = Term(torch.stack(losses).sum(), self.adversarial_weight)
            terms[f"regression_{domain}"] = Term(l1(regressed, drawn[0]), self.regression_weight)
            if self.mode_seeking_weight:
                apart = l1(*random[domain]) / l1(*drawn)
                terms[f"mode_seeking_{domain}"] = Term(1 / (apart + 1e-5), self.mode_seeking_weight)
        return terms
