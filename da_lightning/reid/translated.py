"""What translators leave for re-identification: training images in another style, as files."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import resize

from da_lightning.data.source_target import data_of
from da_lightning.data.views import Resize
from da_lightning.files import RECORD, check_writable, damaged_images, write_png, write_text
from da_lightning.training.callbacks import write_picture
from da_lightning.training.module import evaluating
from da_lightning.training.phases import Phase
from da_lightning.training.progress import tracked
from da_lightning.training.strategy import failing_together
from da_lightning.translation.data import EvaluationView, TrainingView, UnpairedImages
from da_lightning.translation.module import Domain, TranslationModule, as_uint8

To = Domain | int


class WholeImages(EvaluationView):
    """The images of a training view, resized to what its augmentation ends with; ``size`` (H, W) is their own."""

    def __init__(self, view: TrainingView) -> None:
        crop, own = view.augment.crop_size, view.resize
        super().__init__(view.dataset, own if crop is None else Resize(crop, own.interpolation.value))

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.dataset[index]["image"]
        return {"image": self.as_float(self.resize(image)), "size": torch.tensor(image.shape[1:]), "index": index}

    def some(self, count: int) -> Tensor:
        """``count`` images, spread over the set, [count, 3, H, W]; fewer where there are fewer."""
        places = torch.linspace(0, len(self) - 1, min(count, len(self))).round().int().tolist()
        return torch.stack([self[place]["image"] for place in places])


@dataclass(frozen=True)
class Translations:
    """Files to write: for each image of ``view`` the domains it is translated into, by name (without suffix).

    What several runs write to one ``folder`` differs in ``label``.
    """

    view: WholeImages
    folder: Path
    names: Sequence[Mapping[str, To]]
    label: str = ""

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    @property
    def record(self) -> Path:
        return self.folder / f"{RECORD}{self.label}"

    def made_by(self) -> str:
        """What made the files, as :meth:`note` has written it; empty where that is not known."""
        try:
            return self.record.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        except OSError:
            return ""

    def note(self, made_by: str, count: int | None = None) -> None:
        """Record what makes the files and, when all are there, how many they are."""
        write_text(self.record, made_by if count is None else f"{made_by}\n{count}\n")


class TranslationWriter(L.Callback, ABC):
    """Writes translations at the end of training, and a picture of some.

    Images are translated at the training's size, each on one rank. A file is there whole or not at all; a run that goes
    on leaves those that its weights have made as they are.

    Args:
        original_size: Give translations the sizes of their originals; else they have the training's.
        count: Images in the picture.
    """

    phase = Phase.WORK

    def __init__(self, original_size: bool = False, count: int = 10) -> None:
        self.original_size, self.count = original_size, count

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for folder in {translations.folder for translations in self.translations(trainer)}:
                check_writable(folder)

    @abstractmethod
    def translations(self, trainer: L.Trainer) -> list[Translations]:
        """What to write."""

    @abstractmethod
    def draw(self, trainer: L.Trainer, module: TranslationModule) -> None:
        """Write the picture."""

    # Not on_fit_end: by then Lightning has brought the module back to the CPU.
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(TranslationModule, pl_module)
        with evaluating(module), torch.inference_mode(), trainer.precision_plugin.forward_context():
            for translations in self.translations(trainer):
                self._write(trainer, module, translations)
            if trainer.is_global_zero:
                self.draw(trainer, module)
        trainer.strategy.barrier()

    def _write(self, trainer: L.Trainer, module: TranslationModule, translations: Translations) -> None:
        with failing_together(trainer.strategy):
            if trainer.is_global_zero:
                self._remove_outdated(module, translations)
        with failing_together(trainer.strategy):
            self._write_missing(trainer, module, translations)
        with failing_together(trainer.strategy):
            if trainer.is_global_zero:
                translations.note(translations.made_by(), sum(map(len, translations.names)))

    def _write_missing(self, trainer: L.Trainer, module: TranslationModule, translations: Translations) -> None:
        data, names = images_of(trainer), translations.names
        count = data.eval_batch_size
        own = [index for index in range(trainer.global_rank, len(names), trainer.world_size) if names[index]]
        missing = set(damaged_images(translations.file(name) for index in own for name in names[index]))
        # Batches are the same whatever is there already, and with them the translations, to the last bit.
        batches = [own[start : start + count] for start in range(0, len(own), count)]
        batches = [batch for batch in batches if any(translations.file(n) in missing for i in batch for n in names[i])]
        loader = DataLoader(translations.view, batch_sampler=batches, num_workers=data.num_workers)
        for batch in tracked(trainer, loader, "Translating", len(loader)):
            files = [(row, *file) for row, i in enumerate(batch["index"].tolist()) for file in names[i].items()]
            for start in range(0, len(files), count):
                rows, part, to = map(list, zip(*files[start : start + count], strict=True))
                if not any(translations.file(name) in missing for name in part):
                    continue
                images = translated(module, batch["image"][rows], to).cpu()
                for name, image, size in zip(part, images, batch["size"][rows].tolist(), strict=True):
                    if translations.file(name) in missing:
                        resized = resize(image, size, antialias=True) if self.original_size else image
                        write_png(resized, translations.file(name))

    def _remove_outdated(self, module: nn.Module, translations: Translations) -> None:
        """Remove what other weights have made; which have, a hidden file says."""
        made_by = f"{checksum(module):08x} {translations.view.resize.size} {self.original_size}"
        if translations.made_by() == made_by:
            return
        for names in translations.names:
            for name in names:
                translations.file(name).unlink(missing_ok=True)
        translations.note(made_by)


class WriteTranslations(TranslationWriter):
    """Writes the source in the style of the target to ``translated/<name>.png`` of the run; queries and gallery stay.

    ``pictures/translations.png`` has some images above their translations.
    """

    def translations(self, trainer: L.Trainer) -> list[Translations]:
        view = WholeImages(images_of(trainer).source_view)
        names: list[dict[str, To]] = [{view.dataset.name(index): "target"} for index in range(len(view))]
        return [Translations(view, Path(trainer.default_root_dir) / "translated", names)]

    def draw(self, trainer: L.Trainer, module: TranslationModule) -> None:
        image = WholeImages(images_of(trainer).source_view).some(self.count)
        draw_rows(
            trainer, module, "translations", [as_uint8(image), translated(module, image, ["target"] * len(image))]
        )


def images_of(trainer: L.Trainer) -> UnpairedImages:
    """The data that a translator is trained on."""
    return data_of(trainer, UnpairedImages, "toy_people_images")


def translated(module: TranslationModule, image: Tensor, to: Sequence[To]) -> Tensor:
    """``image`` [B, 3, H, W] in [-1, 1], translated into domains, all given by name or all by number; uint8."""
    domain = to[0] if isinstance(to[0], str) else torch.tensor(to, device=module.device)
    return as_uint8(module.translate(image.to(module.device), cast(Domain, domain)))


def draw_rows(trainer: L.Trainer, module: TranslationModule, name: str, rows: Sequence[Tensor]) -> None:
    """Write a picture of rows uint8 [columns, 3, H, W]."""
    images = torch.cat([row.cpu().float() / 255 for row in rows])
    write_picture(trainer, name, images, len(rows[0]), module.iteration)


def checksum(module: nn.Module) -> int:
    """Of all parameters and buffers."""
    total = 0
    for value in module.state_dict().values():
        total = zlib.crc32(value.cpu().contiguous().view(torch.uint8).numpy(), total) if value.numel() else total
    return total
