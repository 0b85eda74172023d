"""Camera style: what the images of one camera would look like through others (Zhong et al., CVPR and ECCV 2018)."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor

from da_lightning.data.source_target import data_of
from da_lightning.errors import DataError, UserError
from da_lightning.reid.datasets.base import PersonDataset
from da_lightning.reid.translated import (
    To,
    Translations,
    TranslationWriter,
    WholeImages,
    draw_rows,
    images_of,
    translated,
)
from da_lightning.training.stage_plan import StagePlan
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.datasets import ImageDataset
from da_lightning.translation.module import DOMAINS, Domain, TranslationModule, as_uint8, other
from da_lightning.translation.stargan import StarGAN

# -- data --------------------------------------------------------------------------------------------------------------


class _Part(ImageDataset):
    """Images of a set of people, without what is known of them."""

    def __init__(self, dataset: PersonDataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.dataset.name(self.indices[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.dataset[self.indices[index]]["image"]}


class ByCamera(_Part):
    """A set of people as images of several domains: items are ``{"image", "domain"}``.

    Attributes:
        cameras: Their numbers, sorted; a domain is a place here.
        domains: Of each item; and
        num_domains: how many there are.

    Raises:
        DataError: A single camera.
    """

    def __init__(self, dataset: PersonDataset) -> None:
        super().__init__(dataset, range(len(dataset)))
        self.cameras = sorted(set(dataset.cameras))
        if len(self.cameras) < 2:
            raise DataError(
                f"Camera style needs two cameras at least, but all {len(dataset)} images are from camera "
                f"{self.cameras[0]}: choose another set, or train without (method.camera=false)."
            )
        places = {camera: place for place, camera in enumerate(self.cameras)}
        self.domains = [places[camera] for camera in dataset.cameras]
        self.num_domains = len(self.cameras)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"domain": self.domains[index]}


class OneCamera(_Part):
    """The images of a set of people from one camera: items are ``{"image"}``."""

    def __init__(self, dataset: PersonDataset, camera: int) -> None:
        super().__init__(dataset, [index for index, own in enumerate(dataset.cameras) if own == camera])
        self.camera = camera


class CameraPair(UnpairedImages):
    """Two cameras of one network as source and target.

    Args:
        source, target: The images of all cameras, in either.
        cameras: Numbers of the two.
        tests: Test images of all cameras, as ``source`` and ``target``.
        options: See :class:`~da_lightning.translation.data.UnpairedImages`.

    Raises:
        UserError: No such pair; the message has all of them.
    """

    def __init__(
        self,
        source: PersonDataset,
        target: PersonDataset,
        cameras: tuple[int, int] | None = None,
        tests: dict[Domain, PersonDataset] | None = None,
        **options: Any,
    ) -> None:
        found = ByCamera(source).cameras
        if cameras is None or not set(cameras) <= set(found) or cameras[0] == cameras[1]:
            pairs = ",".join(f"[{one},{other}]" for one, other in combinations(found, 2))
            raise UserError(
                f"data.cameras must name two of the cameras {', '.join(map(str, found))}, but is "
                f"{'not set' if cameras is None else list(cameras)}: end the command with 'data.cameras={pairs}' -m "
                "for a training of each pair."
            )
        camera_of = dict(zip(DOMAINS, cameras, strict=True))
        super().__init__(
            OneCamera(source, camera_of["source"]),
            OneCamera(target, camera_of["target"]),
            {domain: OneCamera(dataset, camera_of[domain]) for domain, dataset in (tests or {}).items()},
            **options,
        )


class EachPair(StagePlan):
    """A training for each pair of cameras of ``dataset``."""

    def __init__(self, dataset: PersonDataset) -> None:
        self.cameras = ByCamera(dataset).cameras

    def changes(self) -> dict[str, dict[str, Any]]:
        return {f"{one}to{two}": {"data": {"cameras": [one, two]}} for one, two in combinations(self.cameras, 2)}


# -- method ------------------------------------------------------------------------------------------------------------


class CameraStyle(StarGAN):
    """StarGAN between the cameras of a network; its source and its target are one set, :class:`ByCamera`.

    Test scores are round trips by way of the next camera, pictures show an image through each.

    Args:
        num_domains: Cameras.
        options: See :class:`~da_lightning.translation.stargan.StarGAN`.

    Raises:
        UserError: Another number of cameras than the data's; scores of domains as a whole, in ``metrics``.
    """

    def __init__(self, num_domains: int, **options: Any) -> None:
        super().__init__(num_domains, **options)
        self.save_hyperparameters()
        if self.metrics:
            raise UserError(f"method.metrics={list(self.metrics)} compare two domains, not cameras: leave them out.")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        found = by_camera(images_of(self.trainer)).num_domains
        if self.num_domains != found:
            raise UserError(
                f"method.num_domains={self.num_domains}, but the data have {found} cameras: leave num_domains out."
            )

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        image, own = batch["image"], batch["domain"]
        there = self.generate(image, (own + 1) % self.num_domains)
        distance = (self.generate(there, own).float() - image).abs().mean((1, 2, 3))
        self._scores[self._test_domains()[dataloader_idx]].cycle.update(distance)

    @torch.no_grad()
    def pictures(self, sample: dict[str, Tensor], domain: str) -> list[Tensor]:
        image = sample["image"]
        through_each = [self.generate(image, camera) for camera in range(self.num_domains)]
        return [as_uint8(column) for column in (image, *through_each)]


# -- files -------------------------------------------------------------------------------------------------------------


class WriteCameraStyles(TranslationWriter):
    """Writes each image through each other camera to ``camera_style/<name>_fake_<camera>.png`` of the run.

    ``pictures/camera_styles.png`` has some images, a row each, then as all cameras would have them.

    Args:
        own_camera: Write an image through its own camera, too, as HHL does.
        options: See :class:`~da_lightning.reid.translated.TranslationWriter`.
    """

    def __init__(self, own_camera: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.own_camera = own_camera

    def translations(self, trainer: L.Trainer) -> list[Translations]:
        data = images_of(trainer)
        dataset = by_camera(data)
        names: list[dict[str, To]] = [
            {
                f"{dataset.name(index)}_fake_{camera}": place
                for place, camera in enumerate(dataset.cameras)
                if self.own_camera or place != own
            }
            for index, own in enumerate(dataset.domains)
        ]
        folder = Path(trainer.default_root_dir) / "camera_style"
        return [Translations(WholeImages(data.target_view), folder, names)]

    def draw(self, trainer: L.Trainer, module: TranslationModule) -> None:
        data = images_of(trainer)
        places = range(len(by_camera(data).cameras))
        rows = []
        for image in WholeImages(data.target_view).some(self.count)[:, None]:
            styles = translated(module, image.expand(len(places), -1, -1, -1), places)
            rows.append(torch.cat([as_uint8(image), styles.cpu()]))
        draw_rows(trainer, module, "camera_styles", rows)


class WriteCameraPair(TranslationWriter):
    """Writes the images of two cameras, each through the other, as ``<name>_fake_<from>to<to>.png``.

    ``pictures/camera_pair.png`` has some of either above their translations.

    Args:
        folder: Where, for all pairs alike; ``None`` is ``camera_style`` of the run.
        options: See :class:`~da_lightning.reid.translated.TranslationWriter`.
    """

    def __init__(self, folder: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def translations(self, trainer: L.Trainer) -> list[Translations]:
        folder = Path(self.folder).expanduser() if self.folder else Path(trainer.default_root_dir) / "camera_style"
        views, found = self._views(trainer), []
        for domain in DOMAINS:
            view = views[other(domain)]
            route = "to".join(str(cast(OneCamera, views[side].dataset).camera) for side in (other(domain), domain))
            names: list[dict[str, To]] = [{f"{view.dataset.name(i)}_fake_{route}": domain} for i in range(len(view))]
            found.append(Translations(view, folder, names, f"_{route}"))
        return found

    def draw(self, trainer: L.Trainer, module: TranslationModule) -> None:
        views, rows = self._views(trainer), []
        count = min(self.count, *map(len, views.values()))
        for domain in DOMAINS:
            image = views[other(domain)].some(count)
            rows += [as_uint8(image), translated(module, image, [domain] * count)]
        draw_rows(trainer, module, "camera_pair", rows)

    def _views(self, trainer: L.Trainer) -> dict[Domain, WholeImages]:
        data = data_of(trainer, CameraPair, "toy_people_camera_pair")
        return {"source": WholeImages(data.source_view), "target": WholeImages(data.target_view)}


def by_camera(data: UnpairedImages) -> ByCamera:
    """The set whose cameras ``data`` are translated between.

    Raises:
        UserError: The data do not tell cameras apart.
    """
    dataset = data.target_view.dataset
    if not isinstance(dataset, ByCamera):
        raise UserError(
            f"Expected data.source and data.target to be ByCamera, but found {type(dataset).__name__}: choose data "
            "like toy_people_cameras."
        )
    return dataset
