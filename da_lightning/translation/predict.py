"""Translating files: under random or given styles, and on the way from one style to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from da_lightning.arguments import Seed
from da_lightning.data.images import read_image
from da_lightning.data.inputs import Input, batches, copy_label, find_inputs, with_shorter_side
from da_lightning.errors import UserError
from da_lightning.files import whole_file, write_png
from da_lightning.training.progress import with_progress
from da_lightning.translation.module import DOMAINS, Domain, TranslationModule, as_uint8

_FRAME_MS = 100


@dataclass
class Translate:
    """Translates files; of several translations of one image the names end in ``_style1``, ``_style2``...

    Args:
        to: Domain to translate into: by name, or by number for a method of more than two.
        styles: Random styles for each image; ``None`` is one.
        same_styles: Whether they are the same for all images.
        style_image: Styles of images of the domain ``to`` instead: a file, a folder, or several parted by commas.
        interpolate: Steps from one style to another, both random or of the two style images, side by side.
        gif: The steps as an animation, there and back, instead.
        image_size: Shorter side to resize images to; labels follow. ``None``: as they are.
        batch_size: Images of one size translated at once; nothing else depends on it.
        seed: Of random styles.
    """

    to: Domain | int = "target"
    styles: PositiveInt | None = None
    same_styles: bool = False
    style_image: str | None = None
    interpolate: Annotated[int, Field(ge=2)] | None = None
    gif: bool = False
    image_size: PositiveInt | None = None
    batch_size: PositiveInt = 8
    seed: Seed = 0

    @torch.inference_mode()
    def __call__(self, module: TranslationModule, inputs: Sequence[Input], output: Path) -> list[list[str]]:
        """Write the translations of ``inputs``, and their labels, under ``output``.

        Returns:
            For each result its path and, if there is one, its label's, both relative to ``output``.

        Raises:
            UserError: Options that do not go together, or with the method; nothing is written then.
            DataError: A file that cannot be read.
        """
        self._check(module, is_labelled=any(item.label for item in inputs))
        _check_places(inputs)
        groups = list(batches(inputs, self.batch_size, are_resized=self.image_size is not None))
        codes = self._codes(module, len(inputs))
        written: dict[int, list[list[str]]] = {}
        for positions in with_progress(groups, "Translating", len(groups)):
            images = torch.stack([self._read(inputs[i].image) for i in positions]).to(module.device)
            styles = [None] if codes is None else codes[positions].to(module.device).unbind(1)
            translations = [as_uint8(module.translate(images, self._domain(module), style)).cpu() for style in styles]
            for i, own in zip(positions, zip(*translations, strict=True), strict=True):
                written[i] = self._write(inputs[i], own, output)
        return [row for i in range(len(inputs)) for row in written[i]]

    def _check(self, module: TranslationModule, is_labelled: bool) -> None:
        if isinstance(self.to, int) and not 0 <= self.to < module.num_domains:
            raise UserError(f"to={self.to} is none of the {module.num_domains} domains: the first is 0.")
        of_styles = [n for n in ("styles", "same_styles", "style_image", "interpolate", "gif") if getattr(self, n)]
        if of_styles and not module.style_dim:
            raise UserError(
                f"{type(module).__name__} knows no styles, an image has one translation: leave out {of_styles[0]}."
            )
        if self.styles and (self.style_image or self.interpolate):
            raise UserError("styles draws random styles, which style_image and interpolate do not need: leave it out.")
        if self.gif and not self.interpolate:
            raise UserError("gif shows the way between two styles: set interpolate to its number of steps.")
        if self.interpolate and is_labelled:
            raise UserError("A strip or an animation cannot have the labels of its input: leave out interpolate.")

    def _codes(self, module: TranslationModule, count: int) -> Tensor | None:
        """Style codes [count, styles, style_dim], or ``None`` where there are none."""
        if not module.style_dim:
            return None
        if self.style_image:
            given = _style_images(self.style_image)
            if self.interpolate and len(given) != 2:
                raise UserError(f"interpolate goes between two styles, but style_image names {len(given)}: name two.")
            images = (self._read(path)[None].to(module.device) for path in given)
            codes = torch.cat([module.style_of(image, self._domain(module)).float().cpu() for image in images])[None]
        else:
            shape = 1 if self.same_styles else count, 2 if self.interpolate else self.styles or 1, module.style_dim
            codes = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        if self.interpolate:
            way = torch.lerp if self.style_image else _slerp
            first, last = codes.split(1, dim=1)
            codes = way(first, last, torch.linspace(0, 1, self.interpolate)[:, None])
        return codes.expand(count, -1, -1)

    def _domain(self, module: TranslationModule) -> Domain:
        """``to`` as ``module`` knows it: one of several domains by number, which StarGAN takes, one of two by name."""
        return DOMAINS[self.to] if isinstance(self.to, int) and module.num_domains == 2 else cast(Domain, self.to)

    def _read(self, path: Path) -> Tensor:
        """RGB [3, H, W] in [-1, 1]."""
        return with_shorter_side(read_image(path), self.image_size) / 127.5 - 1

    def _write(self, item: Input, translations: Sequence[Tensor], output: Path) -> list[list[str]]:
        if self.interpolate:
            name = f"{item.place}.{'gif' if self.gif else 'png'}"
            if self.gif:
                first, *others = [to_pil_image(frame) for frame in (*translations, *translations[-2:0:-1])]
                with whole_file(output / name) as part:
                    first.save(part, save_all=True, append_images=others, duration=_FRAME_MS, loop=0)
            else:
                write_png(torch.cat(list(translations), dim=-1), output / name)
            return [[name]]
        rows = []
        for number, image in enumerate(translations, 1):
            ending = f"_style{number}" if len(translations) > 1 else ""
            rows.append([f"{item.place}{ending}.png"])
            write_png(image, output / rows[-1][0])
            if item.label:
                rows[-1].append(f"{item.label_place}{ending}{item.label.suffix}")
                size = None if self.image_size is None else (image.shape[-2], image.shape[-1])
                copy_label(item.label, output / rows[-1][1], size)
        return rows


def _check_places(inputs: Sequence[Input]) -> None:
    """Translations are PNG files whatever their inputs were, and must not be where a label goes."""
    places = {item.place: item.image for item in inputs}
    for item in inputs:
        if item.label and item.label.suffix == ".png" and item.label_place in places:
            raise UserError(
                f"The translation of {places[item.label_place]} and the label {item.label} would both be "
                f"{item.label_place}.png: put the labels in a folder of their own."
            )


def _slerp(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
    """From one draw of N(0, 1) to another along the sphere: codes on a straight way are shorter than draws are."""
    cosine = F.cosine_similarity(first, last, dim=-1)[..., None]
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * last) / torch.sin(angle)


def _style_images(names: str) -> list[Path]:
    parts = [names] if Path(names).expanduser().exists() else names.split(",")
    return [item.image for part in parts for item in find_inputs(Path(part).expanduser())]
