"""StarGAN: one generator for many domains (Choi et al., CVPR 2018)."""

import re
from pathlib import Path
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from da_lightning.training.exportable import Exportable
from da_lightning.training.module import frozen
from da_lightning.training.players import Backward, Batch, Player, Step, Term, Updates
from da_lightning.translation.linear_decay import LinearDecayTranslation
from da_lightning.translation.losses import l1
from da_lightning.translation.module import ABOUT, DOMAINS, Domain, Translator
from da_lightning.translation.networks.cyclegan import GeneratorName
from da_lightning.translation.networks.initial_weights import Additive
from da_lightning.translation.networks.stargan import (
    StarDiscriminator,
    StarGenerator,
    StarUnetGenerator,
    official_state,
)
from da_lightning.translation.weights import load_weights, weight_files


class StarGAN(LinearDecayTranslation):
    """One generator between any two of several domains, and a discriminator that also tells domains apart.

    The discriminator, a Wasserstein critic under a gradient penalty, learns the domains of real images; the generator
    has its translations taken for the domain that was asked for, and undoes them. What a sample is translated into is
    dealt out among the domains of its batch.

    Args:
        num_domains: Samples may carry ``domain`` int64 [B]; without, the source is domain 0 and the target 1.
        generator: ``resnet`` or ``unet``.
        width: Channels of the generator's first layer.
        residuals: Residual blocks of a ``resnet``.
        halvings: Of the image's sides in a ``unet``, which must be multiples of 2 to their number.
        additive: It says what to add to an image, see
            :class:`~da_lightning.translation.networks.initial_weights.Additive`.
        discriminator_width, discriminator_layers, class_kernel: See
            :class:`~da_lightning.translation.networks.stargan.StarDiscriminator`.
        classification_weight: Of the domains' cross-entropy.
        reconstruction_weight: Of the L1 distance of an image to its round trip.
        penalty_weight: Of the gradient penalty.
        critic_steps: Updates of the discriminator for each of the generator.
        init_from: A checkpoint of ours, an official file (``200000-G.ckpt``), or a folder of these.
        options: See :class:`~da_lightning.translation.linear_decay.LinearDecayTranslation`.

    Raises:
        UserError: Accumulated batches: steps that the players take unequally often would mix gradients.
    """

    def __init__(
        self,
        num_domains: PositiveInt = 2,
        generator: GeneratorName = "resnet",
        width: PositiveInt = 64,
        residuals: NonNegativeInt = 6,
        halvings: PositiveInt = 6,
        additive: bool = False,
        discriminator_width: PositiveInt = 64,
        discriminator_layers: PositiveInt = 6,
        class_kernel: PositiveInt | tuple[PositiveInt, PositiveInt] = 2,
        classification_weight: float = 1.0,
        reconstruction_weight: float = 10.0,
        penalty_weight: float = 10.0,
        critic_steps: PositiveInt = 5,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.refuse_accumulation()
        self.classification_weight, self.reconstruction_weight = classification_weight, reconstruction_weight
        self.penalty_weight, self.critic_steps = penalty_weight, critic_steps
        self.stride = 2**halvings if generator == "unet" else 4
        self.num_domains = num_domains
        kind, depth = (StarUnetGenerator, halvings) if generator == "unet" else (StarGenerator, residuals)
        network = kind(num_domains, width, depth)
        self.generator = Additive(network) if additive else network
        self.discriminator = StarDiscriminator(num_domains, discriminator_width, discriminator_layers, class_kernel)
        if init_from:
            self._load(Path(init_from))

    def players(self) -> dict[str, Player]:
        return {
            "generator": self.generator_player(self.generator),
            "discriminator": self.discriminator_player(self.discriminator),
        }

    def generate(self, image: Tensor, to: Domain | int | Tensor, style: Tensor | None = None) -> Tensor:
        """Translate ``image`` into one domain, by name or number, or each sample into its own: ``to`` int64 [B]."""
        number = torch.as_tensor(DOMAINS.index(to) if isinstance(to, str) else to, device=image.device)
        return self.tested("generator")(image, number.expand(image.shape[0]))  # len() would be fixed in exports

    def exportable(self) -> Exportable:  # type: ignore[override]  # where to is an input
        """Translations into domains by number, the further input ``domain`` int64 [B]; RGB in [0, 1]."""
        about = {**ABOUT, "num_domains": self.num_domains}
        further = {"domain": lambda count: torch.randint(self.num_domains, (count,))}
        return Exportable(Translator(self, self.generate), "translation", about, further, self.stride)

    def updates(self, batch: Batch) -> Updates:
        real = torch.cat(list(self.images(batch).values()))
        own = torch.cat([_domains(batch[domain], number) for number, domain in enumerate(DOMAINS)])
        wanted = own[torch.randperm(len(own), device=own.device)]
        is_generators_turn = (self.iteration + 1) % self.critic_steps == 0
        with torch.set_grad_enabled(is_generators_turn):
            fake = self.generator(real, wanted)

        real_score, real_class = self.discriminator(real)
        fake_score, _ = self.discriminator(fake.detach())
        terms = {
            "real": Term(-real_score.float().mean()),
            "fake": Term(fake_score.float().mean()),
            "classification": Term(cross_entropy(real_class.float(), own), self.classification_weight),
            "gradient_penalty": Term(self._gradient_penalty(real, fake.detach()), self.penalty_weight),
        }
        yield Backward("discriminator", terms)
        yield Step("discriminator")
        if not is_generators_turn:
            return
        with frozen(self.discriminator):
            fake_score, fake_class = self.discriminator(fake)
        terms = {
            "adversarial": Term(-fake_score.float().mean()),
            "classification": Term(cross_entropy(fake_class.float(), wanted), self.classification_weight),
            "reconstruction": Term(l1(self.generator(fake, own), real), self.reconstruction_weight),
        }
        yield Backward("generator", terms)
        yield Step("generator")

    def _gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean square of how far the critic's slope is from 1, at random places between ``real`` and ``fake``."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = (share * real.float() + (1 - share) * fake.float()).requires_grad_()
        with torch.autocast(real.device.type, enabled=False):
            score, _ = self.discriminator(between)
            (slope,) = torch.autograd.grad(score.sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def _load(self, path: Path) -> None:
        files = sorted(weight_files(path, "*-[DG].ckpt", "200000-G.ckpt"), key=_iteration)
        latest = {file.stem.rpartition("-")[2]: file for file in files}
        for part, file in sorted(latest.items(), reverse=True):  # the generator first
            load_weights({"G": self.generator, "D": self.discriminator}.get(part, self), file, official_state)


def _domains(sample: dict[str, Tensor], default: int) -> Tensor:
    image = sample["image"]
    return sample.get("domain", torch.full((len(image),), default, device=image.device))


def _iteration(file: Path) -> int:
    return int("".join(re.findall(r"\d", file.stem)) or 0)
