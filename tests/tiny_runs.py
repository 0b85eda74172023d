"""Runs of a second: their options, their pieces without the front door, and the real command."""

import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

import da_lightning
from da_lightning import stopping
from da_lightning.config import CONF_DIR
from da_lightning.config.build import build, build_method
from da_lightning.training.callbacks import StopAtIteration
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Term

METHODS = sorted(file.stem for file in (CONF_DIR / "method").glob("*.yaml"))

SEGMENTATION_DATA = (
    "data.source.count=8",
    "data.source.size=[32,48]",
    "data.target.count=6",
    "data.target.size=[32,48]",
    "data.tests.target.count=3",
    "data.tests.source.count=3",
    "data.image_size=[32,48]",
    "data.batch_size=2",
    "data.eval_batch_size=2",
    "data.iterations_per_epoch=2",
)
SHOES = (
    *(f"data.{place}.count={count}" for place, count in {"source": 8, "target": 6}.items()),
    *(f"data.tests.{name}.count=3" for name in ("source", "target")),
    *(f"data.{place}.size=[32,32]" for place in ("source", "target", "tests.source", "tests.target")),
    "data.batch_size=2",
    "data.eval_batch_size=2",
    "data.iterations_per_epoch=2",
)
SMALLEST = {
    "segmentation": (*SEGMENTATION_DATA, "network@method.network=light", "method.network.width=8"),
    "translation": SHOES,
}
"""By family: data and networks that train in a blink; for people see :func:`people`."""

PEOPLE = {"persons": 4, "cameras": 2, "images_per_camera": 2, "distractors": 1, "junk": 1, "size": "[32,32]"}
"""Of every set of drawn people: four images of each person."""

SHORTEST = {
    "max_iters": 6,
    "source_iters": 2,
    "rounds": 2,
    "iters_per_round": 2,
    "width": 8,
    "residuals": 1,
    "halvings": 5,
    "style_dim": 2,
    "mlp_width": 8,
    "classifier_width": 8,
    "discriminator_width": 8,
    "discriminator_scales": 2,
    "discriminator_layers": 3,
    "class_kernel": 4,
    "content_layers": 0,
    "content_iters": 1,
    "critic_steps": 2,
    "siamese_width": 8,
    "generator_every": 1,
    "embedding_size": 8,
    "neighbours": 3,
    "neighbours_from": 1,
}
"""Options that say how long and how large, as far as a method has them: three epochs of two iterations."""


def composed(*overrides: str) -> DictConfig:
    """The configuration that the command would see."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def digits() -> tuple[str, ...]:
    """Options of a labelled pair, whose files are written on the first call."""
    folder = write_digits(Path(tempfile.gettempdir()) / f"da_lightning_digits_{os.getuid()}")
    return (f"data.root={folder}", "data.image_size=[32,32]", "data.batch_size=2", "data.iterations_per_epoch=2")


def people(data: DictConfig) -> tuple[str, ...]:
    """Options of pairs of drawn people; none for other pairs."""

    def sets(node: DictConfig, place: str) -> Iterator[str]:
        if node.get("_target_", "").endswith(".ToyPeople"):
            yield from (f"{place}.{key}={value}" for key, value in PEOPLE.items())
        for key in node:
            if not OmegaConf.is_interpolation(node, key) and isinstance(node[key], DictConfig):
                yield from sets(node[key], f"{place}.{key}")

    found = tuple(sets(data, "data"))
    cameras = ("data.cameras=[1,2]",) if "cameras" in data else ()
    sizes = ("data.image_size=[32,32]", "data.batch_size=2", "data.eval_batch_size=8", "data.iterations_per_epoch=2")
    return (*found, *sizes, *cameras) if found else ()


def tiny(method: str) -> list[str]:
    """Overrides that make ``method``, and the stages before it, three epochs long and small; no logger but csv."""
    cfg = composed(f"method={method}")
    data = digits() if "num_classes" in cfg.method else people(cfg.data) or SMALLEST[cfg.method._target_.split(".")[1]]
    nodes = {"method": cfg.method} | {f"stages.{name}.method": stage.method for name, stage in cfg.stages.items()}
    lengths = [
        f"{place}.{key}={value}" for place, node in nodes.items() for key, value in SHORTEST.items() if key in node
    ]
    widths = ["method.backbone.width=8"] if "backbone" in cfg.method else []
    batches = [f"stages.{name}.data.{key}=2" for name in cfg.stages for key in ("batch_size", "iterations_per_epoch")]
    return [*data, *lengths, *widths, *batches, "trainer=cpu", "logger=csv", "callbacks.progress=null"]


def with_timm(method: str, model: str = "tf_efficientnet_lite0") -> list[str]:
    """The same for a method that takes a network or a backbone, with a model of timm in the light one's place."""
    if "backbone" in composed(f"method={method}").method:
        place = ["backbone@method.backbone=timm", f"method.backbone.model={model}"]
    else:
        place = ["network@method.network=timm", f"method.network.backbone={model}"]
    light = ("network@method.network=light", "method.network.width=8", "method.backbone.width=8")
    return [*place, *(option for option in tiny(method) if option not in light)]


def alone(method: str) -> list[str]:
    """Overrides for ``method`` where no stage has come before it."""
    return ["method.camera=false"] if "camera" in composed(f"method={method}").method else []


def write_digits(folder: Path, size: int = 28) -> Path:
    """Files as `data=mnist2usps` wants them, with a few random images."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.RandomState(0)
    for number, name in enumerate(("mnist_train", "usps_train", "mnist_test", "usps_test")):
        images = draw.randint(0, 256, (8 - number, size, size), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images, labels=np.arange(len(images)))
    return folder


def built(
    method: str, *overrides: str, seed: int = 0, options: Sequence[str] | None = None
) -> tuple[AdaptationModule, L.LightningDataModule]:
    """Method and data of a tiny run; ``options`` stand in the place of :func:`tiny`'s."""
    cfg = composed(f"method={method}", *(tiny(method) if options is None else options), *alone(method), *overrides)
    L.seed_everything(seed, verbose=False)
    data = build(cfg.data, "data")
    return build_method(cfg.method, data), data


def backwards(module: AdaptationModule, batch: Any) -> Iterator[tuple[str, dict[str, Term]]]:
    """The players and terms of the backward passes that ``module`` would make, without making them."""
    return ((update.player, update.terms) for update in module.updates(batch) if isinstance(update, Backward))


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A quiet trainer on one CPU; keeps the checkpoint of each epoch in ``folder/checkpoints``."""
    keep = ModelCheckpoint(folder / "checkpoints", "{epoch}", save_last=True, save_top_k=-1, every_n_epochs=1)
    options = {"max_epochs": -1, "logger": False, "use_distributed_sampler": False, **options}
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[StopAtIteration(), keep, *callbacks],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def trainer_of_two(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A quiet trainer of two processes on the CPU, which keeps no checkpoints of its own."""
    return L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


class Draws(L.Callback):
    """Notes the (index, augmentation seed) of each sample that comes out of the loaders of ``data``."""

    def __init__(self, data: L.LightningDataModule) -> None:
        data.source, data.target = _WithDraws(data.source), _WithDraws(data.target)
        self.drawn: list[dict[str, list[list[int]]]] = []  # of each batch, by domain

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.drawn.append({domain: sample["draw"].tolist() for domain, sample in batch.items()})


class _WithDraws(Dataset):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        return self.dataset[draw] | {"draw": torch.tensor(draw)}


RUN = ("-m", "da_lightning.run")


def command(
    arguments: Sequence[str], folder: Path, program: Sequence[str] = RUN, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python -m da_lightning.run`` in ``folder``, on one CPU core; it may build the callbacks below."""
    with started(arguments, folder, program, **environment) as process:
        try:
            out, errors = process.communicate(timeout=300)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def started(
    arguments: Sequence[str], folder: Path, program: Sequence[str] = RUN, **environment: str
) -> subprocess.Popen[str]:
    """The same, without waiting for its end."""
    paths = [str(Path(__file__).parent), str(Path(da_lightning.__file__).parents[1])]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DA_", "WANDB_", "PYTEST_"))}
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DA_TRUSTED_PACKAGES": __name__}
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env={**inherited, **own, "CUDA_VISIBLE_DEVICES": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session="KILL_WHOM" in environment,  # for whom the group is meant, it must not be ours
    )


def succeeded(run: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def run_folders(folder: Path) -> list[Path]:
    """Folders of the runs, and of the jobs of sweeps, that were started in ``folder``."""
    return sorted(file.parent.parent for file in folder.glob("*/*/**/.hydra/config.yaml"))


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Bit for bit, at any depth."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}.{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def assert_same_training(one: Path, other: Path) -> None:
    """Weights, optimisers and schedules of two checkpoints."""
    contents = [torch.load(file, weights_only=True) for file in (one, other)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_same(contents[0][part], contents[1][part], part)


# -- callbacks that a test gives to the command: +callbacks.mine={_target_: tiny_runs.WriteChecksum} -------------------


class WriteChecksum(L.Callback):
    """Leaves ``rank_<n>.json`` with checksums of all parameters and of all buffers in the run folder."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = {"parameters": pl_module.parameters(), "buffers": pl_module.buffers()}
        contents = {part: b"".join(t.detach().numpy().tobytes() for t in tensors) for part, tensors in parts.items()}
        sums = {part: hashlib.sha256(content).hexdigest() for part, content in contents.items()}
        (Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}.json").write_text(json.dumps(sums))


class Poison(L.Callback):
    """Sets a weight to NaN, on one rank, before an iteration."""

    def __init__(self, iteration: int, rank: int = 0) -> None:
        self.iteration, self.rank = iteration, rank

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and pl_module.iteration == self.iteration:
            next(pl_module.parameters()).data.fill_(float("nan"))


class Kill(L.Callback):
    """Kills its process where the environment says so.

    ``KILL="iteration 4"`` is inside an epoch, ``"label 9"`` and ``"translation 5"`` before an image is written,
    ``"half */last.ckpt 2"`` when half of such a file is on the disk for the second time, ``"test 1"`` when the training
    has ended, ``"built 1"`` before it begins; ``"hang 4"`` is an iteration that never ends after that.
    ``KILL_RANK=1`` leaves other ranks alone. ``KILL_SIGNAL=SIGTERM`` is another signal than SIGKILL, and
    ``KILL_WHOM=group`` or ``parent`` gets it instead.
    """

    WRITERS = {"label": "da_lightning.segmentation.labelling", "translation": "da_lightning.reid.translated"}

    def __init__(self) -> None:
        self.what, *pattern, count = os.environ.get("KILL", "never 0").split()
        self.count, self.pattern = int(count), "".join(pattern)
        if os.environ.get("KILL_RANK", rank := os.environ.get("LOCAL_RANK", "0")) != rank:
            self.what = "never"
        if self.what == "built":
            self._kill()

    def _kill(self) -> None:
        number = getattr(signal, os.environ.get("KILL_SIGNAL", "SIGKILL"))
        self.what, whom = "never", os.environ.get("KILL_WHOM", "self")
        if whom == "group":
            os.killpg(os.getpgid(0), number)
        else:
            os.kill(os.getppid() if whom == "parent" else os.getpid(), number)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.what == "half":
            sys.addaudithook(self._renamed)
        if self.what in self.WRITERS:
            module = importlib.import_module(self.WRITERS[self.what])
            self.write, module.write_png = module.write_png, self._write

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.what == "test":
            self._kill()

    def _renamed(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Files are written beside their place and renamed: the moment before it."""
        if event == "os.rename" and fnmatch(str(arguments[1]), self.pattern):
            self.count -= 1
            if self.count == 0:
                if Path(arguments[0]).is_file() and "KILL_SIGNAL" not in os.environ:  # others let it be renamed
                    os.truncate(arguments[0], Path(arguments[0]).stat().st_size // 2)
                self._kill()

    def _write(self, *arguments: Any) -> None:
        self.count -= 1
        if self.count == 0:
            self._kill()
        self.write(*arguments)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.what == "iteration" and pl_module.iteration == self.count:
            self._kill()
        if self.what == "hang" and pl_module.iteration == self.count:
            stopping.GRACE = 3.0
            self._kill()
            while True:
                time.sleep(0.1)


class FillDisk(L.Callback):
    """Leaves so many kB free on the run's disk where the environment says so: ``FILL="4 100"``, or ``"end 20"``."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._fill(trainer, str(pl_module.iteration))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._fill(trainer, "end")

    @staticmethod
    def _fill(trainer: L.Trainer, moment: str) -> None:
        wanted, _, left = os.environ.get("FILL", "never").partition(" ")
        folder = Path(trainer.default_root_dir)
        if moment == wanted and not (folder / "ballast").exists():
            (folder / "ballast").write_bytes(bytes(shutil.disk_usage(folder).free - 1024 * int(left)))
