"""CycleGAN: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al., ICCV 2017)."""

from pathlib import Path
from typing import Any, cast

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from da_lightning.training.losses import Gan, gan_loss
from da_lightning.training.module import frozen
from da_lightning.training.players import Backward, Batch, Step, Term, Updates
from da_lightning.translation.image_pool import ImagePool
from da_lightning.translation.linear_decay import LinearDecayTranslation
from da_lightning.translation.losses import l1
from da_lightning.translation.module import DOMAINS, ByDomain, Domain, other
from da_lightning.translation.networks.cyclegan import (
    GeneratorName,
    PatchDiscriminator,
    ResnetGenerator,
    UnetGenerator,
    official_state,
)
from da_lightning.translation.networks.initial_weights import Additive, initialise
from da_lightning.translation.weights import load_weights, weight_files

FAKE, REAL = 0.0, 1.0


class CycleGAN(LinearDecayTranslation):
    """A generator into each domain, held to be the other's inverse, and a patch discriminator of each domain.

    The generators minimise ``L_adversarial + cycle_weight L_cycle + identity_weight L_identity``; then the
    discriminators half the sum of their losses on real images and on fakes made before that step, older ones among
    them.

    Args:
        generator: ``resnet`` or ``unet``.
        width: Channels of the generators' first layer.
        residuals: Residual blocks of the ResNet.
        halvings: Of the sides in the U-Net, whose images have multiples of ``2 ** halvings`` as sides.
        additive: Generators say what to add to an image, see
            :class:`~da_lightning.translation.networks.initial_weights.Additive`.
        discriminator_width: Channels of the discriminators' first layer.
        gan: ``least_squares`` or ``vanilla`` (cross-entropy).
        cycle_weight: Of the L1 distance of an image to its round trip.
        identity_weight: Of the L1 distance of an image to its translation into its own domain; 0 costs nothing.
        pool_size: Earlier fakes of each domain that are kept to be shown again; checkpoints hold them, too.
        init_from: A checkpoint of ours, an official file (``latest_net_G_A.pth``), or a folder of these.
        options: See :class:`~da_lightning.translation.linear_decay.LinearDecayTranslation`.
    """

    def __init__(
        self,
        generator: GeneratorName = "resnet",
        width: PositiveInt = 64,
        residuals: NonNegativeInt = 9,
        halvings: PositiveInt = 8,
        additive: bool = False,
        discriminator_width: PositiveInt = 64,
        gan: Gan = "least_squares",
        cycle_weight: float = 10.0,
        identity_weight: float = 5.0,
        pool_size: NonNegativeInt = 50,
        init_from: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.gan, self.cycle_weight, self.identity_weight = gan, cycle_weight, identity_weight
        self.stride = 2**halvings if generator == "unet" else 4

        def new_generator() -> nn.Module:
            return UnetGenerator(width, halvings) if generator == "unet" else ResnetGenerator(width, residuals)

        self.generators = nn.ModuleDict({domain: new_generator() for domain in DOMAINS})
        self.discriminators = nn.ModuleDict({domain: PatchDiscriminator(discriminator_width) for domain in DOMAINS})
        self.pools = {domain: ImagePool(pool_size) for domain in DOMAINS}
        initialise(self, "normal")
        if additive:
            self.generators.update({domain: Additive(generator) for domain, generator in self.generators.items()})
        if init_from:
            self._load(Path(init_from))

    def generate(self, image: Tensor, to: Domain, style: Tensor | None = None) -> Tensor:
        networks: Any = self.tested("generators")
        return networks[to](image)

    def updates(self, batch: Batch) -> Updates:
        real = self.images(batch)
        fake, terms = self.generator_terms(real)
        yield Backward("generator", terms)
        yield Step("generator")
        yield Backward("discriminator", self.discriminator_terms(real, fake))
        yield Step("discriminator")

    def fakes(self, real: ByDomain) -> ByDomain:
        """Translations by the domain that they are in."""
        return {domain: self.generators[domain](real[other(domain)]) for domain in DOMAINS}

    def generator_terms(self, real: ByDomain) -> tuple[ByDomain, dict[str, Term]]:
        """The translations of ``real``, and what the generators minimise."""
        terms: dict[str, Term] = {}
        if self.identity_weight:
            fake: ByDomain = {}
            for domain in DOMAINS:
                # One call for both, which norms over single samples do not notice.
                both = self.generators[domain](torch.cat([real[other(domain)], real[domain]]))
                fake[domain], same = both.chunk(2)
                terms[f"identity_{domain}"] = Term(l1(same, real[domain]), self.identity_weight)
        else:
            fake = self.fakes(real)
        for domain in DOMAINS:
            cycle = self.generators[domain](fake[other(domain)])
            terms[f"cycle_{domain}"] = Term(l1(cycle, real[domain]), self.cycle_weight)
            with frozen(self.discriminators):
                score = self.discriminators[domain](fake[domain])
            terms[f"adversarial_{domain}"] = Term(gan_loss(score, REAL, self.gan))
        return fake, terms

    def discriminator_terms(self, real: ByDomain, fake: ByDomain) -> dict[str, Term]:
        """What the discriminators minimise; ``fake`` gets no gradient and goes through the pools."""
        terms = {}
        for domain in DOMAINS:
            shown = self.pools[domain].swap(fake[domain].detach())
            real_score, fake_score = self.discriminators[domain](torch.cat([real[domain], shown])).chunk(2)
            terms[f"real_{domain}"] = Term(gan_loss(real_score, REAL, self.gan), 0.5)
            terms[f"fake_{domain}"] = Term(gan_loss(fake_score, FAKE, self.gan), 0.5)
        return terms

    def on_train_start(self) -> None:
        super().on_train_start()
        for pool in self.pools.values():  # those of a checkpoint lie in the CPU's memory
            pool.images = [image.to(self.device) for image in pool.images]

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["image_pools"] = {  # [ranks, images, C, H, W]
            domain: cast(Tensor, self.all_gather(torch.stack(pool.images)[None])).flatten(0, -5)
            for domain, pool in self.pools.items()
            if pool.images
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for domain, images in checkpoint.get("image_pools", {}).items():
            self.pools[domain].images = list(images[self.global_rank % len(images)])

    def _load(self, path: Path) -> None:
        for file in weight_files(path, "latest_net_*.pth", "latest_net_G_A.pth"):
            _, found, part = file.stem.rpartition("_net_")
            if not found:
                load_weights(self, file, dict)
                continue
            # G_A translates into B, and D_A judges B; a lone generator is called G.
            networks = self.generators if part.startswith("G") else self.discriminators
            load_weights(networks["source" if part.endswith("_B") else "target"], file, official_state)
