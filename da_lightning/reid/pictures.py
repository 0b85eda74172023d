"""Queries and the best of the gallery, to look at."""

from collections.abc import Sequence
from typing import Any, cast

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics.utilities.distributed import gather_all_tensors

from da_lightning.reid.datasets.base import JUNK
from da_lightning.reid.distances import Distance
from da_lightning.reid.ranking import nearest
from da_lightning.training.callbacks import tests_source_only, write_picture
from da_lightning.training.media import Table

QUERY, RIGHT, WRONG = (0.2, 0.2, 0.2), (0.1, 0.7, 0.2), (0.9, 0.1, 0.1)


class RankingPicture(L.Callback):
    """Writes ``pictures/ranking_<test set>.png``: a query a row, then the best of the gallery, framed green or red.

    What the score leaves out is left out here: junk, and the query's person in its own camera. It goes with a
    :class:`~da_lightning.reid.module.ReidModule`, whose features it takes.

    Args:
        count: Queries, spread over the set.
        best: Gallery images beside each.
    """

    def __init__(self, count: int = 6, best: int = 10) -> None:
        self.count, self.best = count, best

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module, loaders = cast(Any, pl_module), trainer.test_dataloaders
        if not module.rankings:
            return
        loaders = loaders if isinstance(loaders, list) else [loaders]
        for (name, ranking), loader in zip(module.rankings.items(), loaders, strict=True):
            states = ("features", "person", "camera", "is_query")
            samples = {state: torch.cat(getattr(ranking, state)) for state in states}
            samples["index"] = torch.tensor(list(loader.sampler), device=ranking.device)
            if trainer.world_size > 1:
                samples = {key: torch.cat(gather_all_tensors(value)) for key, value in samples.items()}
            if trainer.is_global_zero:
                images, table = self._drawn(samples, loader.dataset, module.distance)
                name = f"source_only_{name}" if tests_source_only(trainer) else name
                write_picture(trainer, f"ranking_{name}", images, 1 + self.best, module.iteration, table)

    def _drawn(self, samples: dict[str, Tensor], dataset: Dataset, distance: Distance) -> tuple[Tensor, Table]:
        """Framed images, row after row, where what the gallery has no more of is white; and the same as a table."""
        is_query = samples["is_query"].bool()
        queries = is_query.nonzero()[:, 0]
        queries = queries[samples["index"][queries].argsort()]
        queries = queries[torch.linspace(0, len(queries) - 1, min(self.count, len(queries))).round().long()]
        gallery = (~is_query & (samples["person"] != JUNK)).nonzero()[:, 0]
        same = {key: samples[key][queries, None] == samples[key][gallery] for key in ("person", "camera")}
        distances, places = nearest(
            samples["features"][queries],
            samples["features"][gallery],
            self.best,
            distance,
            excluded=same["person"] & same["camera"],
        )
        is_right = same["person"].gather(1, places)
        images, rows = [], []
        for row, query in enumerate(queries):
            images.append(framed(_image(dataset, samples["index"][query]), QUERY))
            ranked = [
                framed(_image(dataset, samples["index"][gallery[place]]), RIGHT if right else WRONG)
                for place, right, apart in zip(places[row], is_right[row], distances[row], strict=True)
                if apart.isfinite()
            ]
            hits = is_right[row, : len(ranked)].nonzero()[:, 0].tolist()
            known = [int(samples[key][query]) for key in ("person", "camera")]
            rows.append([images[-1], *known, len(hits), hits[0] + 1 if hits else None, *ranked])
            rows[-1] += [None] * (self.best - len(ranked))
            images += ranked + [torch.ones_like(images[-1])] * (self.best - len(ranked))
        columns = ["query", "person", "camera", "right", "first right", *map(str, range(1, self.best + 1))]
        return torch.stack(images), Table(columns, rows)


def framed(image: Tensor, colour: Sequence[float], width: int = 3) -> Tensor:
    """``image`` float RGB [3, H, W] with a border of ``colour`` (0..1) around it."""
    border = torch.tensor(colour)[:, None, None]
    return F.pad(image - border, (width,) * 4) + border


def _image(dataset: Dataset, index: Tensor) -> Tensor:
    return dataset[int(index)]["image"].float().cpu()
