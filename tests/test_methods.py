"""Every method there is a yaml for: trains, tests, resumes, runs on two devices, and needs no Hydra."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import lightning.pytorch as L
import pytest
import torch
from omegaconf import OmegaConf
from tiny_runs import (
    METHODS,
    Draws,
    alone,
    assert_same,
    assert_same_training,
    built,
    command,
    composed,
    run_folders,
    succeeded,
    tiny,
    trainer,
    write_digits,
)

from da_lightning.arguments import checked_arguments
from da_lightning.data.facts import DataFacts
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.predict import load_method
from da_lightning.reid.camera_style import ByCamera, CameraStyle
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.datasets import QueryGallery, ToyPeople
from da_lightning.reid.module import ReidModule
from da_lightning.segmentation.data import SegmentationDataModule
from da_lightning.segmentation.datasets import ToyStreets
from da_lightning.segmentation.module import SegmentationModule
from da_lightning.toy.streets import CLASSES
from da_lightning.training.module import AdaptationModule
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.datasets import Digits, ToyShoes
from da_lightning.translation.unit_classifier import UNITClassifier

pytestmark = pytest.mark.slow


@dataclass
class Trained:
    method: str
    module: AdaptationModule
    before: dict[str, torch.Tensor]
    draws: list[dict[str, list[list[int]]]]
    scores: dict[str, float]
    folder: Path

    @property
    def checkpoints(self) -> list[Path]:
        """One an epoch."""
        return sorted((self.folder / "checkpoints").glob("epoch=*.ckpt"))


class ParametersBefore(L.Callback):
    """Keeps what training begins from; some modules make networks when they have seen the data."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.parameters = {name: p.detach().clone() for name, p in pl_module.named_parameters()}


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param)
    module, data = built(request.param)
    before, draws = ParametersBefore(), Draws(data)
    fit = trainer(folder, before, draws)
    fit.fit(module, data)
    scores = fit.test(module, data, verbose=False)[0]
    return Trained(request.param, module, before.parameters, draws.drawn, scores, folder)


@pytest.mark.parametrize("method", METHODS)
def test_first_weights_are_those_of_the_seed_in_any_process(method: str, tmp_path: Path) -> None:
    """Lightning reseeds the processes of a run between the constructor and ``setup``, which may make networks."""
    first = []
    for reseeded in (1, 2):
        module, data = built(method)
        torch.manual_seed(reseeded)
        before = ParametersBefore()
        trainer(tmp_path / str(reseeded), before).fit(module, data)
        first.append(before.parameters)
    assert_same(*first)


def test_every_player_learns(trained: Trained) -> None:
    names = {id(p): name for name, p in trained.module.named_parameters()}
    players = trained.module.players()
    assert players
    for player, description in players.items():
        own = description.parameters
        assert any(not torch.equal(p, trained.before[names[id(p)]]) for p in own), player
    assert all(p.isfinite().all() for p in trained.module.parameters())


def test_scores_of_each_test_set(trained: Trained) -> None:
    assert trained.scores[trained.module.objective] >= 0
    objective = trained.module.objective.removeprefix("target/")
    for domain in ("source", "target"):
        assert trained.scores[f"{domain}/{objective}"] >= 0
        if objective == "miou":
            assert len([name for name in trained.scores if name.startswith(f"{domain}/iou/")]) == len(CLASSES)


def test_checkpoints_hold_plain_values_and_rebuild_the_method(trained: Trained) -> None:
    kind = type(trained.module)
    for checkpoint in (trained.folder / "checkpoints").glob("*.ckpt"):
        torch.load(checkpoint, weights_only=True)
    rebuilt = kind.load_from_checkpoint(trained.folder / "checkpoints" / "last.ckpt")
    for again in (rebuilt, load_method(trained.folder / "checkpoints" / "last.ckpt")):
        assert_same(dict(again.state_dict()), dict(trained.module.state_dict()))
    assert_same(json.loads(json.dumps(dict(rebuilt.hparams))), json.loads(json.dumps(dict(trained.module.hparams))))


def test_source_only_weights_are_those_before_adaptation(trained: Trained) -> None:
    kept = trained.folder / "checkpoints" / "source_only.ckpt"
    if not getattr(trained.module, "source_iters", 0):
        assert not kept.exists()
        return
    # An epoch of source_iters ends there, too; statistics of the target come after.
    states = [torch.load(file, weights_only=True)["state_dict"] for file in (kept, trained.checkpoints[0])]
    for name in trained.before:
        assert torch.equal(states[0][name], states[1][name]), name


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_at_any_epoch_end_it_goes_on_bit_for_bit(workers: int, trained: Trained, tmp_path: Path) -> None:
    *earlier, last = trained.checkpoints
    assert len(earlier) == 2
    for number, checkpoint in list(enumerate(earlier))[-1 if workers else 0 :]:  # starting workers takes time
        # Other weights, were they not the checkpoint's.
        module, data = built(trained.method, f"data.num_workers={workers}", seed=1)
        draws = Draws(data)
        trainer(tmp_path / str(number), draws).fit(module, data, ckpt_path=checkpoint, weights_only=True)
        assert draws.drawn == trained.draws[2 * number + 2 :]
        assert_same_training(tmp_path / str(number) / "checkpoints" / last.name, last)


def test_bfloat16_stays_finite(trained: Trained, tmp_path: Path) -> None:
    module, data = built(trained.method)
    fit = trainer(tmp_path, precision="bf16-mixed")
    fit.fit(module, data)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in module.parameters())
    assert fit.test(module, data, verbose=False)[0][module.objective] >= 0
    wide, narrow = (torch.cat([p.flatten() for p in m.parameters()]) for m in (trained.module, module))
    assert not torch.equal(wide, narrow)
    torch.testing.assert_close(wide, narrow, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_it_needs_no_hydra(method: str, tmp_path: Path) -> None:
    options = OmegaConf.to_container(composed(f"method={method}", *tiny(method), *alone(method)).method, resolve=True)
    package, _, name = options.pop("_target_").rpartition(".")
    kind = getattr(importlib.import_module(package), name)
    data = a_data_module(kind, tmp_path)
    module = kind(**options | data.facts.options(kind, options))
    fit = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fit.fit(module, data)
    assert module.iterations_done == 4
    assert fit.test(module, data, verbose=False)[0][module.objective] >= 0


def a_data_module(kind: type[AdaptationModule], folder: Path) -> SourceTargetDataModule:
    """Data for methods of this kind, built by hand."""
    loader = {"batch_size": 2, "iterations_per_epoch": 2}
    if issubclass(kind, SegmentationModule):
        return SegmentationDataModule(
            CLASSES,
            source=ToyStreets("game", 6, size=(32, 48)),
            target=ToyStreets("camera", 4, size=(32, 48), labelled=False),
            tests={"target": ToyStreets("camera", 2, first_seed=90)},
            image_size=(32, 48),
            **loader,
        )
    if issubclass(kind, ReidModule):
        people = partial(ToyPeople, persons=4, cameras=2, images_per_camera=2, distractors=1, junk=1, size=(32, 32))
        return PersonDataModule(
            source=people("street"),
            target=people("station", labelled=False),
            tests={"target": QueryGallery(*(people("station", part) for part in ("query", "gallery")))},
            image_size=(32, 32),
            **loader,
        )
    if issubclass(kind, UNITClassifier):
        files = write_digits(folder / "digits", size=32)
        source, target, *tests = (
            Digits(files, f"{name}.npz", labelled=name != "usps_train")
            for name in ("mnist_train", "usps_train", "mnist_test", "usps_test")
        )
    elif issubclass(kind, CameraStyle):
        source = target = ByCamera(ToyPeople("station", persons=4, cameras=2, size=(32, 32), labelled=False))
        tests = source, target
    else:
        source, target, *tests = (
            ToyShoes(style, 4, seed, size=(32, 32)) for seed in (0, 50) for style in ("drawing", "photo")
        )
    sizes = {"image_size": None, "crop_size": None, "flip": False}
    return UnpairedImages(source, target, dict(zip(("source", "target"), tests, strict=True)), **sizes, **loader)


FACTS = DataFacts(num_persons=3, num_domains=3, image_size=(64, 32), target_size=12)


@pytest.mark.parametrize("method", METHODS)
def test_the_yaml_gives_every_option_and_no_other(method: str) -> None:
    options = OmegaConf.to_container(composed(f"method={method}").method, resolve=True)
    package, _, name = options.pop("_target_").rpartition(".")
    kind = getattr(importlib.import_module(package), name)
    options |= FACTS.options(kind, options)
    checked_arguments(kind, options, "method")
    small = {"network": {"_target_": "da_lightning.segmentation.networks.LightNet"}} if "network" in options else {}
    assert set(options) == set(kind(**{**options, **small}).hparams)


# -- two processes: methods of the same options share one sweep, since starting Python costs more than the training ---


@dataclass
class OnTwoDevices:
    process: CompletedProcess[str]
    folder: Path
    jobs: int


@pytest.fixture(scope="module")
def on_two_devices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnTwoDevices]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for method in METHODS:
        alike.setdefault(tuple(tiny(method)), []).append(method)

    def start(options: tuple[str, ...], folder: Path) -> OnTwoDevices:
        methods = alike[options]
        sweep = ["-m"] if len(methods) > 1 else []
        observed = ["trainer.devices=2", "+callbacks.checksum={_target_: tiny_runs.WriteChecksum}"]
        process = command([*sweep, f"method={','.join(methods)}", *options, *observed], folder)
        return OnTwoDevices(process, folder, len(methods))

    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path_factory.mktemp("two_devices") for _ in alike]
        runs = zip(alike.values(), pool.map(start, alike, folders), strict=True)
        return {method: run for methods, run in runs for method in methods}


def test_two_devices_agree_inside_an_epoch_and_on_averages(tmp_path: Path) -> None:
    observed = ["trainer.devices=2", "callbacks=ema", "+callbacks.checksum={_target_: tiny_runs.WriteChecksum}"]
    options = [*tiny("segmentation_source_only"), "method.max_iters=5", *observed]
    succeeded(command(["method=segmentation_source_only", *options], tmp_path))
    (run,) = run_folders(tmp_path)
    one, other = (json.loads((run / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert one == other


@pytest.mark.parametrize("method", METHODS)
def test_two_devices_end_with_equal_weights_in_one_folder(method: str, on_two_devices: dict[str, OnTwoDevices]) -> None:
    run = on_two_devices[method]
    succeeded(run.process)
    assert "bucket view strides" not in run.process.stderr, "DDP takes the gradients for another layout's"
    folders = run_folders(run.folder)
    assert len(folders) == run.jobs
    (own,) = [f for f in folders if method_of(f) == method]
    one, other = (json.loads((own / f"rank_{rank}.json").read_text()) for rank in range(2))
    assert one["parameters"] == other["parameters"]
    assert one["buffers"] == other["buffers"]
    summary = json.loads((own / "metrics.json").read_text())
    assert summary["devices"] == 2
    assert summary["test"][summary["objective"]] >= 0
    torch.load(own / "checkpoints" / "last.ckpt", weights_only=True)
    for labels in own.glob("pseudo_labels/*"):  # each rank labels its own share
        assert len(list(labels.glob("*.png"))) == 6


def test_two_devices_of_which_one_is_killed_end_as_if_undisturbed(
    on_two_devices: dict[str, OnTwoDevices], tmp_path: Path
) -> None:
    line = ["method=cbst", *tiny("cbst"), "trainer.devices=2", "data.num_workers=2"]
    line.append("+callbacks.kill={_target_: tiny_runs.Kill}")
    assert command(line, tmp_path, KILL="iteration 5", KILL_RANK="1").returncode != 0
    (resumed,) = run_folders(tmp_path)
    assert (resumed / "checkpoints" / "last.ckpt").is_file()
    succeeded(command([*line, "resume=auto"], tmp_path))
    assert run_folders(tmp_path) == [resumed]
    (whole,) = (f for f in run_folders(on_two_devices["cbst"].folder) if method_of(f) == "cbst")
    assert_same_training(*(run / "checkpoints" / "last.ckpt" for run in (resumed, whole)))


def method_of(run: Path) -> str:
    return json.loads((run / "metrics.json").read_text())["method"]
