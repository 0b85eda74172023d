"""Weights & Biases: everything under a name, over the iteration, in a run of its own."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from da_lightning.errors import UserError
from da_lightning.private.lightning import artifacts_of, open_as, opened, set_artifacts, wandb_options
from da_lightning.training.callbacks import tests_source_only
from da_lightning.training.media import Media, Overlay, Table
from da_lightning.training.module import AdaptationModule
from da_lightning.training.results import is_share

STAGES = ("train", "val", "test")
NO_CLASS = 255
INIT_SECONDS, FINISH_SECONDS = 60.0, 300.0
"""How long a run waits for the network when it begins and when it ends."""

SUMMARY = ("iterations", "devices", "seconds", "peak_memory_mb", "selection")


class WandbLogger(LightningWandbLogger):
    """Lightning's logger with our names: ``train/ val/ test/`` for numbers, ``pictures/`` for the rest.

    The x axis is ``iteration``. Summaries keep the best and the last of what is logged again and again.

    Args:
        project, entity, group, job_type, name, tags: As of ``wandb.init``.
        offline: Write to the disk alone: no account, no network.
        checkpoints: Log the checkpoints of a training that ended well, as an artifact.
        save_dir: ``wandb/`` is made in it.

    Raises:
        UserError: On the first use: W&B refuses, or is not to be reached.
    """

    def __init__(
        self,
        project: str = "da_lightning",
        entity: str | None = None,
        offline: bool = True,
        group: str | None = None,
        job_type: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        checkpoints: bool = False,
        save_dir: str = ".",
    ) -> None:
        super().__init__(
            name=name,
            save_dir=save_dir,
            project=project,
            log_model=checkpoints,
            add_file_policy="immutable",  # no copy: the run folder has the file
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            # Lightning's ``offline`` would set an environment variable for all later runs, and refuse checkpoints.
            mode="offline" if offline else None,
        )
        del wandb_options(self)["anonymous"]  # W&B warns of it, even of None
        self._module: AdaptationModule | None = None
        self._has_configuration = False
        self._defined: set[str] = set()
        self._data_dir = os.environ.get("WANDB_DATA_DIR")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        import wandb

        if opened(self) is None:
            os.environ.setdefault("WANDB_SILENT", "true")  # its summary would push the results off the screen
            # Images of tables, until they are sent: with the run, and not in the home folder.
            os.environ.setdefault("WANDB_DATA_DIR", str(Path(cast(str, self.save_dir), "wandb").absolute()))
            try:
                if self._is_online() and not wandb.login(prompt=False, verify=False):
                    raise wandb.Error("there is no API key")  # wandb.init would ask on a terminal, and wait
                run = open_as(self, wandb.init(**wandb_options(self), settings=self._patience()))
            except (wandb.Error, OSError) as error:
                raise UserError(
                    f"logger=wandb cannot begin a run ({' '.join(str(error).split())}): set logger.offline=true, or "
                    "log in with `wandb login` and check the network."
                ) from None
            run.define_metric("iteration", hidden=True)
            run.define_metric("*", step_metric="iteration")
        return opened(self)

    def _is_online(self) -> bool:
        return wandb_options(self)["mode"] is None and os.environ.get("WANDB_MODE", "online") == "online"

    def _patience(self) -> Any:
        """How long to wait for the network; unsent data stay on the disk, for ``wandb sync``."""
        import wandb

        known: dict[str, Any] = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS}
        fields = getattr(wandb.Settings, "model_fields", {})  # earlier versions know no finish_timeout
        return wandb.Settings(
            **{key: value for key, value in known.items() if key in fields and f"WANDB_{key.upper()}" not in os.environ}
        )

    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Lightning's way to show a logger what is trained; it knows the iteration."""
        self._module = cast(AdaptationModule, model)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """The configuration, flat: ``method/optimizer/lr``. Later ones are parts of the first, by Lightning."""
        if not self._has_configuration:
            self._has_configuration = True
            self.experiment.config.update(dict(flattened(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers under their stage; a NaN says that there is nothing to say (a class that is nowhere)."""
        values = {n: float(v) for n, v in metrics.items() if n != "train/iteration" and not math.isnan(v)}
        for name in values:
            if name not in self._defined and (kept := _kept(name)):
                self.experiment.define_metric(name, step_metric="iteration", summary=kept)
            self._defined.add(name)
        if values.keys() - {"epoch"}:
            self._log({self._placed(name): value for name, value in values.items()})

    @rank_zero_only
    def log_media(self, key: str, media: Media) -> None:
        import wandb

        if isinstance(media, Path):
            self._log({key: wandb.Image(str(media))})
        elif isinstance(media, Table):
            rows = [[_pixels(cell) if isinstance(cell, Tensor) else cell for cell in row] for row in media.rows]
            self._log({key: wandb.Table(columns=list(media.columns), data=rows)})
        else:
            self._log({key: [_with_masks(overlay) for overlay in media]})

    @rank_zero_only
    def log_summary(self, values: Mapping[str, Any]) -> None:
        tests = {f"test/{name}": value for name, value in values["test"].items() if not math.isnan(value)}
        self.experiment.summary.update({**{name: values[name] for name in SUMMARY}, **tests})

    def finalize(self, status: str) -> None:
        # Where weights are selected, these are the result, and the last ones would pass for the best.
        if selecting := {key: callback for key, callback in artifacts_of(self).items() if callback.monitor}:
            set_artifacts(self, selecting)
        super().finalize(status)

    @rank_zero_only
    def close(self, failed: bool) -> None:
        if opened(self) is not None:
            opened(self).finish(exit_code=int(failed))
        os.environ.pop("WANDB_DATA_DIR", None)
        if self._data_dir is not None:
            os.environ["WANDB_DATA_DIR"] = self._data_dir

    def _log(self, values: dict[str, Any]) -> None:
        iteration = max(0, self._module.iteration) if self._module is not None else 0
        self.experiment.log({**values, "iteration": iteration})

    def _placed(self, name: str) -> str:
        """``name`` under what it is logged in, unless it says so itself."""
        trainer = self._module.trainer if self._module is not None else None
        if trainer is None or not trainer.testing:
            is_placed = name == "epoch" or name.startswith(tuple(f"{stage}/" for stage in STAGES))
            return name if is_placed else f"train/{name}"
        if name == "epoch":
            return name
        return f"test/{'source_only/' if tests_source_only(trainer) else ''}{name}"


def flattened(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("method/optimizer/lr", 0.1)`` for every leaf; W&B wants no dots in names, and filters by no lists."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", str(value) if isinstance(value, list | tuple) else value


def _kept(name: str) -> str | None:
    """What a summary keeps of a metric; ``None``: the last value, by itself."""
    stage, *parts = name.split("/")
    if stage == "train":
        return "min,last"
    if stage == "val":
        return "max,last" if is_share("/".join(parts[1:])) else "min,max,last"
    return None


def _pixels(image: Tensor) -> Any:
    import wandb

    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return wandb.Image(image.movedim(0, -1).cpu().numpy())


def _with_masks(overlay: Overlay) -> Any:
    import wandb

    labels = dict(enumerate(overlay.classes)) | {NO_CLASS: "none"}
    masks = {
        name: {"mask_data": ids.to(torch.uint8).cpu().numpy(), "class_labels": labels}
        for name, ids in overlay.maps.items()
    }
    return wandb.Image(overlay.image.movedim(0, -1).cpu().numpy(), masks=masks)
