"""MUNIT: Multimodal Unsupervised Image-to-Image Translation (Huang et al., ECCV 2018)."""

from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Size, Tensor, nn

from da_lightning.training.module import Term
from da_lightning.translation.latent import Forward, LatentTranslation
from da_lightning.translation.losses import l1
from da_lightning.translation.module import DOMAINS, ByDomain, Domain, other
from da_lightning.translation.networks.munit import MUNITGenerator


class MUNIT(LatentTranslation):
    """An image is a content code, which both domains share, and a style code of its domain.

    A translation decodes the content with a style drawn from N(0, 1); encoded again, it must give both codes back.

    Args:
        style_weight, content_weight: Of the codes' reconstruction.
        cycle_weight: Of the image translated there and back, under its own style.
        width, residuals, downsamples, style_dim, mlp_width: See
            :class:`~da_lightning.translation.networks.munit.MUNITGenerator`.
        init_from: Weights to begin with: files of the official code (``gen_*.pt``, ``dis_*.pt``) or a checkpoint of
            ours.
        options: See :class:`~da_lightning.translation.latent.LatentTranslation`.
    """

    def __init__(
        self,
        style_weight: float = 1.0,
        content_weight: float = 1.0,
        cycle_weight: float = 0.0,
        width: PositiveInt = 64,
        residuals: NonNegativeInt = 4,
        downsamples: NonNegativeInt = 2,
        style_dim: PositiveInt = 8,
        mlp_width: PositiveInt = 256,
        init_from: str | list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(cycle_weight=cycle_weight, **options)
        self.save_hyperparameters()
        self.stride = 2**downsamples
        self.style_weight, self.content_weight, self.style_dim = style_weight, content_weight, style_dim
        shape = width, downsamples, residuals, style_dim, mlp_width
        self.generators = nn.ModuleDict({domain: MUNITGenerator(*shape) for domain in DOMAINS})
        self.load_initial(init_from)

    def encode_style(self, image: Tensor, domain: Domain) -> Tensor:
        networks: Any = self.tested("generators")
        return networks[domain].style_encoder(image)

    def generate(self, image: Tensor, to: Domain, style: Tensor | None) -> Tensor:
        networks: Any = self.tested("generators")
        return networks[to].decode(networks[other(to)].content_encoder(image), style)

    def forward_pass(self, images: ByDomain) -> Forward:
        drawn = {domain: self.noise(Size((len(images[domain]), self.style_dim))) for domain in DOMAINS}
        contents = {domain: self.generators[domain].content_encoder(images[domain]) for domain in DOMAINS}
        styles = {domain: self.generators[domain].style_encoder(images[domain]) for domain in DOMAINS}
        reconstructions, translations = {}, {}
        for domain in DOMAINS:
            both = torch.cat((contents[domain], contents[other(domain)])), torch.cat((styles[domain], drawn[domain]))
            reconstructions[domain], translations[domain] = self.generators[domain].decode(*both).chunk(2)
        return Forward(contents, reconstructions, translations, styles, drawn)

    def latent_terms(self, images: ByDomain, forward: Forward) -> dict[str, Term]:
        terms, contents = {}, {}
        for domain in DOMAINS:
            translation = forward.translations[domain]
            contents[other(domain)] = self.generators[domain].content_encoder(translation)
            style = l1(self.generators[domain].style_encoder(translation), forward.drawn[domain])
            terms[f"style_{domain}"] = Term(style, self.style_weight)
        for domain in DOMAINS:
            # The first code is no constant here, as in the official code: both move.
            content = l1(contents[domain], forward.codes[domain])
            terms[f"content_{domain}"] = Term(content, self.content_weight)
            if self.cycle_weight:
                cycle = self.generators[domain].decode(contents[domain], forward.styles[domain])
                terms[f"cycle_{domain}"] = Term(l1(cycle, images[domain]), self.cycle_weight)
        return terms
