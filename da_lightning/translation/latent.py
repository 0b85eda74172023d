"""What UNIT and MUNIT share: a generator and discriminators a domain, the order of the updates, the schedule."""

from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from da_lightning.training.losses import Gan
from da_lightning.training.players import Backward, Batch, Step, Term, Updates
from da_lightning.training.schedules import steps
from da_lightning.translation.losses import discriminator_loss, generator_loss, l1
from da_lightning.translation.module import DOMAINS, ByDomain, TranslationModule, other
from da_lightning.translation.networks.discriminators import MultiScaleDiscriminator
from da_lightning.translation.networks.initial_weights import initialise
from da_lightning.translation.networks.vgg import PerceptualDistance
from da_lightning.translation.weights import load_weights, nvlabs_state


class Forward(NamedTuple):
    """A forward pass of the generators; each entry is under the domain in which it lies."""

    codes: ByDomain
    """Of the images."""
    reconstructions: ByDomain
    translations: ByDomain
    """Into the domain, of the other one's images."""
    styles: ByDomain
    """Of the images, where the method has styles."""
    drawn: ByDomain
    """The styles of the translations."""


class LatentTranslation(TranslationModule):
    """Translation through a code that both domains share. A subclass owns ``generators`` and says what they minimise.

    Args:
        adversarial_weight, reconstruction_weight, cycle_weight, perceptual_weight: Of the generators' terms; the
            last two cost nothing at 0.
        perceptual_features: ``imagenet`` (torchvision's VGG-16) or a file with its state dict.
        gan: ``least_squares`` or ``vanilla`` (cross-entropy).
        discriminator_width, discriminator_scales, discriminator_layers: See
            :class:`~da_lightning.translation.networks.discriminators.MultiScaleDiscriminator`.
        share_fakes: One forward pass of the generators serves both updates: same gradients in expectation. ``False``
            draws noise anew for the generators, as the official code does.
        lr_step, lr_gamma: Learning rates are multiplied by ``lr_gamma`` every ``lr_step`` iterations.
        options: See :class:`~da_lightning.translation.module.TranslationModule`.
    """

    def __init__(
        self,
        adversarial_weight: float = 1.0,
        reconstruction_weight: float = 10.0,
        cycle_weight: float = 10.0,
        perceptual_weight: float = 0.0,
        perceptual_features: str = "imagenet",
        gan: Gan = "least_squares",
        discriminator_width: PositiveInt = 64,
        discriminator_scales: PositiveInt = 3,
        discriminator_layers: PositiveInt = 4,
        share_fakes: bool = True,
        lr_step: PositiveInt = 100_000,
        lr_gamma: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.adversarial_weight, self.reconstruction_weight = adversarial_weight, reconstruction_weight
        self.cycle_weight, self.perceptual_weight = cycle_weight, perceptual_weight
        self.perceptual_features, self.gan, self.share_fakes = perceptual_features, gan, share_fakes
        # The official schedule is stepped before the update.
        self.use_schedule(steps(self.max_iters, lr_gamma, every=lr_step, ahead=1))
        self._perceptual: tuple[PerceptualDistance, ...] = ()
        shape = discriminator_width, discriminator_scales, discriminator_layers
        self.discriminators = nn.ModuleDict({domain: MultiScaleDiscriminator(*shape) for domain in DOMAINS})
        initialise(self.discriminators, "normal")

    def load_initial(self, init_from: str | list[str] | None) -> None:
        """Once all networks are there, load files of the official code (``gen_*.pt``, ``dis_*.pt``) or a checkpoint."""
        for path in [init_from] if isinstance(init_from, str) else init_from or []:
            load_weights(self, path, nvlabs_state)

    # -- what a method says ------------------------------------------------------------------------------------------

    def forward_pass(self, images: ByDomain) -> Forward:
        """Encode all images, and decode each code into both domains."""
        raise NotImplementedError

    def latent_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        """The generators' terms beyond those that both methods have."""
        raise NotImplementedError

    def noise(self, size: torch.Size) -> Tensor:
        """Every random draw of a step, from N(0, 1); for each purpose the source's comes first."""
        return torch.randn(size, device=self.device)

    # -- training ----------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        if self.perceptual_weight:
            # In a tuple it is no submodule: no checkpoint or optimiser holds its weights.
            self._perceptual = (PerceptualDistance(self.perceptual_features).to(self.device),)

    def updates(self, batch: Batch) -> Updates:
        images = self.images(batch)
        with torch.set_grad_enabled(self.share_fakes):
            forward = self.forward_pass(images)
        yield Backward("discriminator", self._discriminator_terms(images, forward))
        yield Step("discriminator")
        if not self.share_fakes:
            forward = self.forward_pass(images)
        yield Backward("generator", self._generator_terms(images, forward))
        yield Step("generator")

    def _discriminator_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        terms = {}
        for domain, discriminator in self.discriminators.items():
            loss = discriminator_loss(discriminator, images[domain], forward.translations[domain], self.gan)
            terms[f"adversarial_{domain}"] = Term(loss, self.adversarial_weight)
        return terms

    def _generator_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        terms = {}
        for domain in DOMAINS:
            adversarial = generator_loss(self.discriminators[domain], forward.translations[domain], self.gan)
            terms[f"adversarial_{domain}"] = Term(adversarial, self.adversarial_weight)
            reconstruction = l1(forward.reconstructions[domain], images[domain])
            terms[f"reconstruction_{domain}"] = Term(reconstruction, self.reconstruction_weight)
        terms |= self.latent_terms(images, forward)
        for perceptual in self._perceptual:
            fakes = torch.cat([forward.translations[domain] for domain in DOMAINS])
            contents = torch.cat([images[other(domain)] for domain in DOMAINS])
            for domain, distance in zip(DOMAINS, perceptual(fakes, contents).chunk(2), strict=True):
                terms[f"perceptual_{domain}"] = Term(distance.mean(), self.perceptual_weight)
        return terms
