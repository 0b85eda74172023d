"""UNIT: Unsupervised Image-to-Image Translation Networks (Liu et al., NIPS 2017)."""

from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from da_lightning.training.module import Term
from da_lightning.translation.latent import Forward, LatentTranslation
from da_lightning.translation.losses import l1, mean_square
from da_lightning.translation.module import DOMAINS, ByDomain, Domain, other
from da_lightning.translation.networks.unit import UNITGenerator, share_layers


class UNIT(LatentTranslation):
    """A variational auto-encoder a domain, over one latent space: a code of either decodes into both.

    The default is the official repository's form; the paper's has ``shared_layers=1, gan=vanilla`` and ten times the
    weights.

    Args:
        kl_weight: Of the codes' mean square, before noise.
        cycle_kl_weight: The same of the translations' codes.
        shared_layers: Residual blocks around the code that are the same module in both domains.
        width, residuals, downsamples: See :class:`~da_lightning.translation.networks.unit.UNITGenerator`.
        init_from: Weights to begin with: files of the official code (``gen_*.pt``, ``dis_*.pt``) or a checkpoint of
            ours.
        options: See :class:`~da_lightning.translation.latent.LatentTranslation`.
    """

    def __init__(
        self,
        kl_weight: float = 0.01,
        cycle_kl_weight: float = 0.01,
        shared_layers: NonNegativeInt = 0,
        width: PositiveInt = 64,
        residuals: NonNegativeInt = 4,
        downsamples: NonNegativeInt = 2,
        init_from: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.stride = 2**downsamples
        self.kl_weight, self.cycle_kl_weight = kl_weight, cycle_kl_weight
        source, target = (UNITGenerator(width, downsamples, residuals) for _ in DOMAINS)
        share_layers(source, target, shared_layers)
        self.generators = nn.ModuleDict({"source": source, "target": target})
        self.load_initial(init_from)

    def generate(self, image: Tensor, to: Domain, style: Tensor | None) -> Tensor:
        networks: Any = self.tested("generators")
        return networks[to].decoder(networks[other(to)].encoder(image))

    def forward_pass(self, images: ByDomain) -> Forward:
        codes = {domain: self.generators[domain].encoder(images[domain]) for domain in DOMAINS}
        noisy = {domain: codes[domain] + self.noise(codes[domain].shape) for domain in DOMAINS}
        reconstructions, translations = {}, {}
        for domain in DOMAINS:
            decoded = self.generators[domain].decoder(torch.cat((noisy[domain], noisy[other(domain)])))
            reconstructions[domain], translations[domain] = decoded.chunk(2)
        return Forward(codes, reconstructions, translations, {}, {})

    def latent_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        terms = {f"kl_{domain}": Term(mean_square(forward.codes[domain]), self.kl_weight) for domain in DOMAINS}
        if not (self.cycle_weight or self.cycle_kl_weight):
            return terms
        codes = {other(domain): self.generators[domain].encoder(forward.translations[domain]) for domain in DOMAINS}
        for domain, code in codes.items():
            terms[f"cycle_kl_{domain}"] = Term(mean_square(code), self.cycle_kl_weight)
            if self.cycle_weight:
                cycle = self.generators[domain].decoder(code + self.noise(code.shape))
                terms[f"cycle_{domain}"] = Term(l1(cycle, images[domain]), self.cycle_weight)
        return terms
