"""Ranking files."""

import csv
import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torchvision.io import encode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from da_lightning import names
from da_lightning.data.images import read_image
from da_lightning.data.inputs import Input, find_inputs
from da_lightning.errors import UserError
from da_lightning.files import write_text
from da_lightning.reid.distances import comparable, smallest
from da_lightning.reid.module import ReidModule
from da_lightning.reid.ranking import nearest
from da_lightning.reid.reranking import reranked_distances
from da_lightning.training.progress import with_progress

Ranking = tuple[Input, list[tuple[Input, float]]]
"""A query, and gallery images with their distances, nearest first."""

_THUMBNAIL = 64  # pixels wide

_STYLE = (
    "body{font:13px sans-serif}td{text-align:center;padding:2px 4px;vertical-align:top}img{display:block;margin:auto}"
    "td:first-child{border-right:3px solid #333}small{display:block;max-width:9em;overflow-wrap:anywhere;color:#555}"
)


@dataclass
class Rank:
    """Writes the best of a gallery for each query: ``rankings.csv`` and, with thumbnails, ``rankings.html``.

    Args:
        gallery: An image, or a folder of images at any depth.
        best: Gallery images a query.
        batch_size: Images that go through the network together.
        rerank: Order by k-reciprocal re-ranked distances.
        shown: Queries on the page, the first ones.
    """

    gallery: str | None = None
    best: PositiveInt = 10
    batch_size: PositiveInt = 32
    rerank: bool = False
    shown: NonNegativeInt = 100

    @torch.inference_mode()
    def __call__(self, module: ReidModule, inputs: Sequence[Input], output: Path) -> list[list[str]]:
        """Rank the gallery for each of ``inputs``.

        Returns:
            The query and the best of the gallery, a row each.

        Raises:
            UserError: No gallery, or a checkpoint without an image size.
            DataError: A file that cannot be read.
        """
        if self.gallery is None:
            raise UserError("There is nothing to rank: add gallery=<image or folder>.")
        gallery = find_inputs(Path(self.gallery).expanduser())
        distances, places = self._ranked(module, inputs, gallery)
        rankings: list[Ranking] = [
            (query, [(gallery[place], distance) for place, distance in zip(row, apart, strict=True)])
            for query, row, apart in zip(inputs, places.tolist(), distances.tolist(), strict=True)
        ]
        content = io.StringIO(newline="")
        table = csv.writer(content)
        table.writerow(["query", "rank", "gallery", "distance"])
        for query, ranked in rankings:
            for rank, (item, distance) in enumerate(ranked, 1):
                table.writerow([_name(query), rank, _name(item), f"{distance:.6g}"])
        write_text(output / "rankings.csv", content.getvalue())
        write_text(output / "rankings.html", _page(rankings[: self.shown], len(rankings)))
        return [[str(query.image), str(ranked[0][0].image)] for query, ranked in rankings]

    def _ranked(self, module: ReidModule, queries: Sequence[Input], gallery: Sequence[Input]) -> tuple[Tensor, Tensor]:
        """Distances of the best, ascending, and their positions in the gallery, [Q, best] each."""
        query, rest = self._features(module, queries, "Queries"), self._features(module, gallery, "Gallery")
        if not self.rerank:
            return nearest(query, rest, self.best, module.distance)
        features = comparable(torch.cat([query, rest]), module.distance)
        rows = [smallest(block, self.best) for block in reranked_distances(features, len(query))]
        distances, places = zip(*rows, strict=True)
        return torch.cat(distances), torch.cat(places)

    def _features(self, module: ReidModule, items: Sequence[Input], what: str) -> Tensor:
        resize = module.test_resize
        batches = [items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]
        features = []
        for batch in with_progress(batches, what, len(batches)):
            images = torch.stack([resize(read_image(item.image)) for item in batch])
            features.append(module.embed(images.to(module.device).float() / 255))
        return torch.cat(features)


def _page(rankings: Sequence[Ranking], total: int) -> str:
    rows = []
    for query, ranked in rankings:
        cells = [_cell(query, _name(query))]
        cells += [_cell(item, f"{_name(item)} {distance:.3g}") for item, distance in ranked]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    shown = "" if len(rankings) == total else f" The first {len(rankings)} of {total} queries; all are in rankings.csv."
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Rankings</title><style>{_STYLE}</style>'
        f"<p>Left the query, then the best of the gallery and their distances.{shown}</p>"
        f"<table>{''.join(rows)}</table></html>"
    )
    return names.shown(page, lines=True)


def _cell(item: Input, caption: str) -> str:
    image = read_image(item.image)
    sides = image.shape[-2:]
    scale = min(_THUMBNAIL / min(sides), 16 * _THUMBNAIL / max(sides))  # JPEG has a longest side
    image = resize(image, [max(1, round(scale * side)) for side in sides], InterpolationMode.BICUBIC, antialias=True)
    data = b64encode(encode_jpeg(image, quality=80).numpy().tobytes()).decode()
    return f'<td><img src="data:image/jpeg;base64,{data}"><small>{escape(caption)}</small></td>'


def _name(item: Input) -> str:
    return item.name + item.image.suffix
