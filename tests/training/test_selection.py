"""Selection of weights: the scores, what is kept and tested, and what is refused."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from omegaconf import DictConfig
from report_runs import finished_run
from tiny_runs import alone, assert_same_training, composed, tiny
from torch import Tensor
from torch.nn import functional as F

from da_lightning import stages
from da_lightning.config.build import build, build_method
from da_lightning.errors import NotFiniteError, UserError
from da_lightning.predict import load_method
from da_lightning.report import report
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.session import train_and_test
from da_lightning.training.callbacks import StopAtIteration
from da_lightning.training.module import AdaptationModule
from da_lightning.training.scores import (
    MeanEntropy,
    NeighbourhoodDensity,
    PixelNeighbourhoodDensity,
    neighbourhood_entropy,
)
from da_lightning.training.selection import Selection

pytestmark = pytest.mark.slow

SCORES = [("cbst", s) for s in ("entropy", "snd", "oracle")] + [("reid_source_only", s) for s in ("snd", "source")]

AVERAGED = ("callbacks=ema", "callbacks.progress=null", "callbacks.pictures=null", "callbacks.ema.decay=0.3")

# -- scores ------------------------------------------------------------------------------------------------------------


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def naive_density(features: Tensor, temperature: float) -> float:
    """Number by number, by the paper's formulas."""
    rows = [row / row.norm() for row in features.double()]
    entropies = []
    for i, own in enumerate(rows):
        weights = [torch.exp(own @ other / temperature) for j, other in enumerate(rows) if j != i]
        shares = [w / sum(weights) for w in weights]
        entropies.append(-sum(float(p * p.log()) for p in shares))
    return sum(entropies) / len(entropies)


def test_entropy_is_by_its_definition_and_merges_over_ranks() -> None:
    maps = (3 * drawn(5, 4, 2, 3)).softmax(1)
    maps[0, :, 0, 0] = torch.tensor([1.0, 0, 0, 0])
    whole, ranks = MeanEntropy(), [MeanEntropy(), MeanEntropy()]
    whole.update(maps)
    ranks[0].update(maps[:2])
    ranks[1].update(maps[2:])
    terms = [p * torch.tensor(p).log() / torch.tensor(4.0).log() for p in maps.flatten().tolist() if p]
    assert float(whole.compute()) == pytest.approx(-sum(map(float, terms)) / 30, rel=1e-5)
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(float(whole.compute()))
    certain, uniform = MeanEntropy(), MeanEntropy()
    certain.update(F.one_hot(torch.arange(3)).float())
    uniform.update(torch.full((2, 3), 1 / 3))
    assert (float(certain.compute()), float(uniform.compute())) == (0, pytest.approx(1))


def test_density_of_features_is_by_the_paper_and_of_neither_order_nor_ranks() -> None:
    features, index = drawn(23, 6), torch.arange(23) * 3
    whole = NeighbourhoodDensity(0.2)
    whole.update(features, index)
    assert float(whole.compute()) == pytest.approx(naive_density(features, 0.2), rel=1e-4)
    assert torch.allclose(neighbourhood_entropy(features, 0.2, block=5), neighbourhood_entropy(features, 0.2))
    values = set()
    for order in (torch.arange(23), torch.arange(23).flip(0), drawn(23).argsort()):
        ranks = [NeighbourhoodDensity(0.2, capacity=9) for _ in range(2)]
        for part, rank in zip(order.split((15, 8)), ranks, strict=True):
            for batch in part.split(4):
                rank.update(features[batch], index[batch])
            assert sum(map(len, rank.features)) <= 9
        ranks[0].merge_state(ranks[1])
        values.add(round(float(ranks[0].compute()), 6))
    assert len(values) == 1


def test_density_of_pixels_is_that_of_each_image_by_itself() -> None:
    maps = drawn(4, 5, 3, 4).softmax(1)
    whole, ranks = PixelNeighbourhoodDensity(0.05), [PixelNeighbourhoodDensity(0.05) for _ in range(2)]
    whole.update(maps)
    expected = sum(naive_density(image.flatten(1).T, 0.05) for image in maps) / 4
    assert float(whole.compute()) == pytest.approx(expected, rel=1e-4)
    ranks[0].update(maps[:1])
    ranks[1].update(maps[1:])
    ranks[0].merge_state(ranks[1])
    assert float(ranks[0].compute()) == pytest.approx(expected, rel=1e-4)
    few = PixelNeighbourhoodDensity(0.05, pixels=7)
    few.update(maps)
    assert 0 < float(few.compute()) <= float(torch.tensor(6.0).log())


# -- runs --------------------------------------------------------------------------------------------------------------


@cache
def smallest(method: str) -> tuple[str, ...]:
    return (f"method={method}", *tiny(method), *alone(method))


@cache
def configured(method: str, *overrides: str) -> DictConfig:
    return composed(*smallest(method), *overrides)


def ran(folder: Path, method: str, *overrides: str) -> dict[str, Any]:
    """``metrics.json`` of a tiny run in ``folder``."""
    folder.mkdir(exist_ok=True)
    train_and_test(configured(method, *overrides), folder, method, "toy")
    return json.loads((folder / "metrics.json").read_text())


def logged(folder: Path, name: str) -> list[float]:
    """The score after each epoch, also before a run was resumed."""
    rows = [row for file in sorted(folder.glob("metrics.*csv")) for row in csv.DictReader(file.open())]
    return [float(row[name]) for row in rows if row.get(name)]


def rescored(checkpoint: Path, method: str, score: str, *overrides: str) -> float:
    """The score of the weights in a file, on one device and without a trainer."""
    cfg = configured(method, f"selection={score}", *overrides)
    data, selection = build(cfg.data, "data"), build(cfg.selection, "selection")
    batches = data.ordered_loader(selection._images(data))
    with torch.no_grad():
        return float(load_method(checkpoint).eval().selection_score(score, selection.temperature)(batches))


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Runs of today's default."""
    folders = {method: tmp_path_factory.mktemp(method) for method in ("cbst", "reid_source_only")}
    return {method: (folder, ran(folder, method, *AVERAGED)) for method, folder in folders.items()}


@pytest.mark.parametrize(("method", "score"), SCORES)
def test_the_best_epoch_is_kept_and_tested_and_training_is_not_touched(
    method: str,
    score: str,
    last: dict[str, tuple[Path, dict[str, Any]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = ran(tmp_path / "run", method, f"selection={score}", *AVERAGED)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {f.stem for f in checkpoints.iterdir()} - {"source_only"} == {"last", "previous", f"selected_{score}"}

    reference, expected = last[method]
    assert_same_training(checkpoints / "last.ckpt", reference / "checkpoints" / "last.ckpt")
    assert {k: v for k, v in metrics["test"].items() if k.startswith("last/")} == {
        f"last/{k}": v for k, v in expected["test"].items() if not k.startswith("source_only")
    }
    assert expected["selection"] == "last iteration"

    values = logged(tmp_path / "run", f"val/selection/{score}")
    assert len(values) == 3
    best = min(values) if score == "entropy" else max(values)
    iteration = 2 * (values.index(best) + 1)
    assert metrics["selection"].endswith(f"(iteration {iteration} of 6)")
    # The weights in the file are those that were scored: averaged, and under the target's statistics.
    assert rescored(checkpoints / f"selected_{score}.ckpt", method, score, *AVERAGED) == pytest.approx(best, rel=1e-4)
    if score in ("source", "oracle"):
        name = {"source": "source", "oracle": "target"}[score] + {"cbst": "/miou", "reid_source_only": "/map"}[method]
        assert metrics["test"][name] == pytest.approx(best, rel=1e-5)
    assert ("chosen with target labels: an upper bound" in caplog.text) == (score == "oracle")


def test_images_are_seen_as_in_a_test_and_without_labels(tmp_path: Path) -> None:
    for method in ("cbst", "reid_source_only"):
        data = build(configured(method).data, "data")
        images = data.unlabelled_target()
        assert len(images) == len(data.target)
        assert images[1].keys() == {"image", "index"}
        assert torch.equal(images[1]["image"], images[1]["image"])
        assert images[1]["image"].shape == data.tests["target"][0]["image"].shape


def scripted(module: AdaptationModule, score: str, temperature: float) -> Any:
    """The first epoch is the best."""
    return lambda batches: torch.tensor((0.9, 0.1, 0.5)[module.iteration // 2])


def test_a_resumed_run_remembers_the_best_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_runs")
    monkeypatch.setattr(SourceOnly, "selection_score", scripted)
    method, poison = "segmentation_source_only", "+callbacks.poison={_target_: tiny_runs.Poison, iteration: 4}"
    with pytest.raises(NotFiniteError):
        ran(tmp_path, method, "selection=snd", poison)
    kept = (tmp_path / "checkpoints" / "selected_snd.ckpt").read_bytes()
    metrics = ran(tmp_path, method, "selection=snd", "resume=auto")
    assert (tmp_path / "checkpoints" / "selected_snd.ckpt").read_bytes() == kept
    assert metrics["selection"].endswith("(iteration 2 of 6)")
    assert logged(tmp_path, "val/selection/snd") == pytest.approx([0.9, 0.1, 0.5])


def test_weights_are_scored_every_n_epochs_and_at_the_end(tmp_path: Path) -> None:
    ran(tmp_path, "segmentation_source_only", "selection=entropy", "selection.every_n_epochs=2")
    assert len(logged(tmp_path, "val/selection/entropy")) == 2


def test_two_devices_choose_as_one(tmp_path: Path) -> None:
    method = "reid_source_only"  # whose batch norms differ between ranks
    cfg = configured(method)
    data = build(cfg.data, "data")
    module = build_method(cfg.method, data)
    selection = Selection("snd")
    selection.dirpath = str(tmp_path / "checkpoints")
    L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=-1,
        callbacks=[StopAtIteration(), Choices(), selection],
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)
    first, second = ((tmp_path / f"rank_{rank}.json").read_text() for rank in (0, 1))
    assert first == second
    iteration, best, path = json.loads(first)
    assert (iteration, Path(path)) in {(n, tmp_path / "checkpoints" / "selected_snd.ckpt") for n in (2, 4, 6)}
    assert rescored(Path(path), method, "snd") == pytest.approx(best, rel=1e-4)


class Choices(L.Callback):
    """Leaves ``rank_<n>.json`` with what each process chose."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (selection,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, Selection))
        choice = [selection.iteration, float(selection.best_model_score), selection.best_model_path]
        (Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}.json").write_text(json.dumps(choice))


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("cyclegan", ["selection=snd"], "^selection=snd .* CycleGAN .* selection=last.$"),
        (
            "reid_source_only",
            ["selection=entropy"],
            "^selection=entropy makes no sense .* selection=snd or selection=source.$",
        ),
        ("cbst", ["selection=source", "~data.tests.source"], "^selection=source needs labelled images as data.valid"),
        ("cbst", ["selection=oracle", "~data.tests.target"], "^selection=oracle needs labelled images as data.tests.t"),
        (
            "cbst",
            ["selection=snd", "selection.temperature=0"],
            "^selection.temperature=0 was refused: input should be greater than 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    method: str, overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ran(tmp_path, method, *overrides)
    assert not list(tmp_path.iterdir())


def test_stages_before_a_method_end_with_their_last_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(stages, "train_and_test", lambda cfg, *_: begun.append(cfg.selection))
    stages.train_in_stages(composed("method=spgan", "selection=snd"), Path("run"), "spgan", "data")
    assert begun[0] is None
    assert begun[1].score == "snd"


def test_the_report_shows_both_weights_and_warns_of_an_oracle(tmp_path: Path) -> None:
    for score, words in (("snd", "highest soft neighbourhood density"), ("oracle", "chosen with target labels")):
        run = finished_run(tmp_path / score, selection=f"{words} (iteration 2 of 6)")
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["test"] |= {"last/target/miou": 0.432, "last/target/iou/road": 0.1}
        (run / "metrics.json").write_text(json.dumps(metrics))
        page = report([run]).read_text()
        assert words in page
        assert ("read these figures as an upper bound" in page) == (score == "oracle")
        assert "last iteration" in page
        assert "43.2" in page
