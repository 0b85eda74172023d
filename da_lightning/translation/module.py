"""What all translation methods share: translating any image, test scores, pictures."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from da_lightning.training.module import AdversarialModule

Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, Domain] = ("source", "target")

DITHER = 1 / 255
"""Deviation of the noise on constant images: stacked instance norms raise their gradients to infinity."""


def other(domain: Domain) -> Domain:
    """The domain across."""
    return "target" if domain == "source" else "source"


class TranslationModule(AdversarialModule):
    """Translators between two domains. A subclass says how one image is translated (:meth:`generate`).

    Images are float32 RGB [B, 3, H, W] in [-1, 1].

    Args:
        optimizer: Of the generators, see :func:`~da_lightning.training.optimizers.make_optimizer`.
        discriminator_optimizer: Of the discriminators; ``None`` takes ``optimizer``.
        clip_norm: Largest gradient norm of a player; ``None`` does not clip.
        max_iters, accumulate, seed: See :class:`~da_lightning.training.module.AdaptationModule`.
    """

    style_dim = 0
    """Length of a style code; 0 where an image has one translation."""
    stride = 4
    """Sides of an image that :meth:`generate` takes are multiples of this."""

    def __init__(
        self,
        optimizer: Mapping[str, Any],
        max_iters: int,
        discriminator_optimizer: Mapping[str, Any] | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(max_iters, accumulate, seed)
        self.optimizer_options, self.clip_norm = optimizer, clip_norm
        self.discriminator_options = discriminator_optimizer or optimizer

    # -- what a method says ------------------------------------------------------------------------------------------

    def generate(self, image: Tensor, to: Domain, style: Tensor | None) -> Tensor:
        """Translate ``image`` of the other domain into ``to``, under ``style`` [B, style_dim] where there is one."""
        raise NotImplementedError

    def encode_style(self, image: Tensor, domain: Domain) -> Tensor:
        """Style codes [B, style_dim] of images of ``domain``."""
        raise NotImplementedError

    # -- use ---------------------------------------------------------------------------------------------------------

    def translate(self, image: Tensor, to: Domain, style: Tensor | None = None) -> Tensor:
        """Translate images of the other domain and of any size; styles are drawn from N(0, 1) where none are given."""
        if self.style_dim and style is None:
            style = torch.randn(len(image), self.style_dim, device=image.device)
        height, width = image.shape[-2:]
        padding = (0, -width % self.stride, 0, -height % self.stride)
        return self.generate(F.pad(image, padding, mode="reflect"), to, style)[..., :height, :width]

    def round_trip(self, image: Tensor, domain: Domain) -> Tensor:
        """Images of ``domain`` translated there and back, under their own style where there is one."""
        style = self.encode_style(image, domain) if self.style_dim else None
        return self.translate(self.translate(image, other(domain)), domain, style)

    # -- training ----------------------------------------------------------------------------------------------------

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if self.training:
            for domain in DOMAINS:
                batch[domain]["image"] = dithered(batch[domain]["image"])
        return batch

    # -- evaluation --------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        self._errors: dict[str, list[Tensor]] = {}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        domain = DOMAINS[dataloader_idx]
        error = (self.round_trip(batch["image"], domain) - batch["image"]).abs().mean()
        self.log(f"{domain}/cycle_l1", error, add_dataloader_idx=False, batch_size=len(batch["image"]))

    # -- pictures ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def pictures(self, sample: dict[str, Tensor], domain: str) -> list[Tensor]:
        """Image, translations (three where there are styles) and round trip; uint8 RGB [B, 3, H, W]."""
        was_training = self.training
        self.eval()
        image, own = sample["image"], DOMAINS[domain == "target"]
        translations = [self.translate(image, other(own)) for _ in range(3 if self.style_dim else 1)]
        columns = [image, *translations, self.round_trip(image, own)]
        self.train(was_training)
        return [as_uint8(column) for column in columns]


def dithered(image: Tensor) -> Tensor:
    """``image`` with noise of one grey level on samples that are constant."""
    constant = image.flatten(1).std(1) < DITHER / 10
    if not constant.any():
        return image
    return image + DITHER * torch.randn_like(image) * constant[:, None, None, None]


def as_uint8(image: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8; values beyond are clamped, never stretched."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
