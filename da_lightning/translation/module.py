"""What all translation methods share: translating any image, test scores, pictures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from da_lightning.arguments import Seed
from da_lightning.errors import UserError
from da_lightning.seeds import mixed_seed
from da_lightning.training.exportable import Exportable
from da_lightning.training.module import AdaptationModule, evaluating
from da_lightning.training.optimizers import optimizer_options
from da_lightning.training.players import Group, Player
from da_lightning.training.schedules import ScheduleOptions, make_schedule
from da_lightning.translation.metrics import INPUTS, PAIRS, DomainScores, Metric, metric_networks, score_name

log = logging.getLogger(__name__)

Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, Domain] = ("source", "target")
ByDomain = dict[Domain, Tensor]
"""Images, codes or styles of a batch."""

DITHER = 1 / 255
"""Deviation of the noise on constant images: stacked instance norms raise their gradients to infinity."""

LEAST_SIDE = 16
"""Smaller images are padded to it: reflection inside the networks needs some pixels."""


ABOUT = {"task": "translation", "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3}}
"""Of every exported translator."""


def other(domain: Domain) -> Domain:
    """The domain across."""
    return "target" if domain == "source" else "source"


class TranslationModule(AdaptationModule):
    """Translators between two domains. A subclass says how one image is translated (:meth:`generate`).

    Losses call its networks; :meth:`generate` and :meth:`encode_style` call those that are :meth:`tested`.

    Images are float32 RGB [B, 3, H, W] in [-1, 1].

    Args:
        optimizer: Of the generators, see :func:`~da_lightning.training.optimizers.make_optimizer`.
        discriminator_optimizer: Of the discriminators; what it leaves out, unless it has a ``name`` of its own, is as
            in ``optimizer``.
        clip_norm: Largest gradient norm of a player; ``None`` does not clip.
        metrics: Of ``fid``, ``kid`` and ``lpips`` (diversity, where there are styles): scores of the test beyond the
            error of round trips.
        features: torchvision's name of a network to compare by, ``None`` the metrics' standard ones; and
        features_from: a file with its weights. See :func:`~da_lightning.translation.metrics.metric_networks`.
        max_iters, accumulate, seed, schedule: See :class:`~da_lightning.training.module.AdaptationModule`.
        discriminator_schedule: Of the discriminators; ``None`` is as ``schedule``.
    """

    generators: Any
    """By the domain that they translate into."""
    discriminators: Any
    """By the domain that they judge. A method with other networks has :meth:`players` of its own."""
    style_dim = 0
    """Length of a style code; 0 where an image has one translation."""
    num_domains = 2
    """Domains to translate into; from 3 on they are told by number."""
    stride = 4
    """Sides of an image that :meth:`generate` takes are multiples of this."""

    def __init__(
        self,
        optimizer: Mapping[str, Any],
        max_iters: PositiveInt,
        discriminator_optimizer: Mapping[str, Any] | None = None,
        clip_norm: PositiveFloat | None = None,
        metrics: Sequence[Metric] | None = None,
        features: str | None = None,
        features_from: str | None = None,
        accumulate: PositiveInt = 1,
        seed: Seed = 0,
        schedule: ScheduleOptions = None,
        discriminator_schedule: ScheduleOptions = None,
    ) -> None:
        super().__init__(max_iters, accumulate, seed, schedule)
        self.optimizer_options, self.clip_norm = optimizer_options(optimizer), clip_norm
        self.discriminator_options = optimizer_options(optimizer, discriminator_optimizer)
        self._discriminator_schedule = discriminator_schedule
        self.metrics, self._compared_by = metrics or (), (features, features_from)
        self._networks: dict[Metric, nn.Module] = {}
        self.score_names = {str(metric): score_name(metric, *self._compared_by) for metric in self.metrics}
        self.objective = f"target/{self.score_names.get('fid', 'cycle_l1')}"

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
        least = max(LEAST_SIDE, self.stride)
        sides = (max(side + -side % self.stride, least) for side in (height, width))
        return self.generate(reflected(image, *sides), to, style)[..., :height, :width]

    def style_of(self, image: Tensor, domain: Domain) -> Tensor:
        """Style codes [B, style_dim] of images of ``domain`` and of any size."""
        height, width = (max(side, LEAST_SIDE) for side in image.shape[-2:])
        return self.encode_style(reflected(image, height, width), domain)

    def round_trip(self, image: Tensor, domain: Domain, style: Tensor | None = None) -> Tensor:
        """Images of ``domain`` translated there, as by :meth:`translate`, and back, under the style that they have."""
        own = self.style_of(image, domain) if self.style_dim else None
        return self.translate(self.translate(image, other(domain), style), domain, own)

    def exportable(self, to: Domain = "target") -> Exportable:
        """Translations into ``to``, RGB in [0, 1]; where there are styles, under the further input ``style``."""
        further = {"style": lambda count: torch.randn(count, self.style_dim)} if self.style_dim else {}
        about = {**ABOUT, "to": to, "style_dim": self.style_dim}
        translator = Translator(self, lambda image, style: self.generate(image, to, style))
        return Exportable(translator, "translation", about, further, self.stride)

    # -- training ----------------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return {
            "generator": self.generator_player(self.generators),
            "discriminator": self.discriminator_player(self.discriminators),
        }

    def generator_player(self, *networks: nn.Module) -> Player:
        """All parameters of ``networks``, under the options of generators."""
        parameters = list(nn.ModuleList(networks).parameters())
        return Player([Group(parameters)], self.optimizer_options, self.clip_norm, self.schedule)

    def discriminator_player(self, *networks: nn.Module) -> Player:
        """The same under those of discriminators."""
        schedule = make_schedule(self._discriminator_schedule, self.max_iters, self.schedule)
        player = self.generator_player(*networks)
        return replace(player, optimizer=self.discriminator_options, schedule=schedule)

    def images(self, batch: dict[str, dict[str, Tensor]]) -> dict[Domain, Tensor]:
        """The images of a training batch by domain.

        Raises:
            UserError: Two shapes, or sides that a translation would not have.
        """
        images = {domain: batch[domain]["image"] for domain in DOMAINS}
        source, target = (tuple(image.shape) for image in images.values())
        if source != target:
            raise UserError(
                f"Expected as many source as target images, of one size, but found {source} and {target}: change "
                "data.crop_size or data.batch_size."
            )
        if any(side % self.stride for side in source[-2:]):
            raise UserError(
                f"Expected images in training with sides that are multiples of {self.stride}, but found "
                f"{source[-2]}x{source[-1]}: change data.crop_size, or data.image_size where nothing is cropped (of a "
                "stage: stages.<name>.data.image_size)."
            )
        return images

    def rehearsal(self, images: dict[str, Tensor]) -> None:
        for domain, image in self.images({domain: {"image": image} for domain, image in images.items()}).items():
            style = image.new_zeros(len(image), self.style_dim) if self.style_dim else None
            self.generate(image, other(domain), style)
            if self.style_dim:
                self.encode_style(image, domain)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if self.training:
            for domain in DOMAINS:
                image = batch[domain]["image"]
                seed = mixed_seed(self.seed, self.iteration, self.global_rank, DOMAINS.index(domain))
                batch[domain]["image"] = dithered(image, torch.Generator(image.device).manual_seed(seed))
        return batch

    # -- evaluation --------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        # Before training begins: what the test needs and lacks is told now, not after it.
        wanted = [metric for metric in self.metrics if metric != "lpips" or self.style_dim]
        tests = getattr(getattr(self.trainer, "datamodule", None), "tests", {})
        if wanted and tests and min(len(tests.get(domain, ())) for domain in DOMAINS) < 2:
            raise UserError(
                f"method.metrics={wanted} need two images at least in each of data.tests.source and data.tests.target: "
                "add some, or set method.metrics=null."
            )
        fewest = min((len(test) for test in tests.values()), default=INPUTS)
        if "lpips" in wanted and fewest < INPUTS:
            log.warning("LPIPS diversity is by definition that of %d inputs; the tests have %d.", INPUTS, fewest)
        if wanted and not self._networks:
            self._networks = metric_networks(wanted, *self._compared_by)

    def on_test_start(self) -> None:
        inputs = len(range(self.global_rank, INPUTS, self.trainer.world_size))
        for network in self._networks.values():
            network.to(self.device)
        self._scores = {domain: DomainScores(self._networks, self.device, inputs) for domain in self._test_domains()}

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        domain = self._test_domains()[dataloader_idx]
        image, own, across = batch["image"], self._scores[domain], self._scores.get(other(domain))
        # An image's own draws, whatever batch and device it is in.
        seeds = [mixed_seed(self.seed, dataloader_idx, index) for index in batch["index"].tolist()]
        style = torch.stack([self._drawn(seed, 1)[0] for seed in seeds]) if self.style_dim else None
        own.cycle.update((self.round_trip(image, domain, style).float() - image).abs().mean((1, 2, 3)))
        if across is None or not self._networks:
            return
        own.add(as_uint8(image), real=True)
        across.add(as_uint8(self.translate(image, other(domain), style)), real=False)
        for one, seed in list(zip(image, seeds, strict=True))[: across.inputs]:
            content, styles = one.expand(PAIRS, -1, -1, -1), self._drawn(seed, 2 * PAIRS).chunk(2)
            across.add_pairs(*(self.translate(content, other(domain), half) for half in styles))

    def _drawn(self, seed: int, count: int) -> Tensor:
        """Random styles [count, style_dim]."""
        styles = torch.randn(count, self.style_dim, generator=torch.Generator().manual_seed(seed))
        return styles.to(self.device)

    def on_test_epoch_end(self) -> None:
        torch.manual_seed(self.seed)
        for domain, scores in self._scores.items():
            computed = scores.compute()
            self.log_dict({f"{domain}/{self.score_names.get(name, name)}": computed[name] for name in computed})

    def _test_domains(self) -> Sequence[Domain]:
        """The domains of the test sets, in their order."""
        return list(getattr(getattr(self.trainer, "datamodule", None), "tests", None) or DOMAINS)

    # -- pictures ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def pictures(self, sample: dict[str, Tensor], domain: str) -> list[Tensor]:
        """Image, translations (three where there are styles) and round trip; uint8 RGB [B, 3, H, W]."""
        image, own = sample["image"], DOMAINS[domain == "target"]
        with evaluating(self):
            translations = [self.translate(image, other(own)) for _ in range(3 if self.style_dim else 1)]
            columns = [image, *translations, self.round_trip(image, own)]
        return [as_uint8(column) for column in columns]


class Translator(nn.Module):
    """What ``generate`` of ``module`` makes of an image in [0, 1] and a further input; values beyond are clamped."""

    def __init__(self, module: TranslationModule, generate: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.module, self.generate = module, generate

    def forward(self, image: Tensor, further: Tensor | None = None) -> Tensor:
        return ((self.generate(image * 2 - 1, further) + 1) / 2).clamp(0, 1)


def dithered(image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``image`` with noise of one grey level on samples of a single colour."""
    constant = image.flatten(2).std(2).amax(1) < DITHER / 10
    if not constant.any():
        return image
    noise = torch.randn(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    return image + DITHER * noise * constant[:, None, None, None]


def reflected(image: Tensor, height: int, width: int) -> Tensor:
    """``image`` padded to [B, C, height, width] at right and below by reflection, to and fro where it is small."""
    if (height, width) == image.shape[-2:]:
        return image
    rows, columns = (
        [min(place % period, -place % period) for place in range(length)]
        for length, period in zip((height, width), (max(2 * side - 2, 1) for side in image.shape[-2:]), strict=True)
    )
    return image[..., rows, :][..., columns]


def as_uint8(image: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8; values beyond are clamped, never stretched."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
