"""Offline W&B runs, read back."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import composed, tiny
from wandb_records import WandbRun, read_run

import da_lightning
from da_lightning import stages
from da_lightning.errors import UserError
from da_lightning.toy.streets import CLASSES
from da_lightning.training.wandb_logger import WandbLogger

pytestmark = pytest.mark.slow

LOGGED = ("logger=wandb", "trainer.log_every_n_steps=1")


def left_by(method: str, folder: Path, *overrides: str) -> Path:
    """The folder of a tiny run, named as the command would."""
    options = [option for option in tiny(method) if option != "logger=csv"]
    run_dir = folder / "outputs" / method / "toy" / "stamp"
    run_dir.mkdir(parents=True)
    stages.train_in_stages(composed(f"method={method}", *options, *LOGGED, *overrides), run_dir, method, "toy")
    return run_dir


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-training, whose rounds begin at iterations 2 and 4."""
    validated = "+data.validations={source: ${data.tests.source}}"
    return left_by("cbst", tmp_path_factory.mktemp("cbst"), validated)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return left_by("spgan", tmp_path_factory.mktemp("spgan"), "logger.tags=[mine]")


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return left_by("munit", tmp_path_factory.mktemp("munit"), "logger.checkpoints=true")


def summary_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "metrics.json").read_text())


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_are_under_their_stage_and_over_the_iteration(segmentation: Path) -> None:
    run = read_run(segmentation)
    keys = {key for row in run.history for key in row if not key.startswith("_")} - {"iteration", "epoch"}
    assert {key.partition("/")[0] for key in keys} == {"train", "val", "test", "pictures"}
    assert [iteration for iteration, _ in run.points("train/segmenter/segmentation")] == [0, 1, 2, 3, 4, 5]
    assert run.points("train/round") == [(1, 1.0), (3, 2.0)]
    assert [iteration for iteration, _ in run.points("train/pseudo_labels/share")] == [1, 3]
    assert [iteration for iteration, _ in run.points("val/source/miou")] == [1, 3, 5]
    assert [iteration for iteration, _ in run.points("test/target/miou")] == [5]
    assert [iteration for iteration, _ in run.points("test/source_only/target/miou")] == [5]
    assert run.metrics["*"].step_metric == "iteration"
    assert run.metrics["iteration"].options.hidden


@pytest.mark.parametrize("family", ["segmentation", "people", "styles"])
def test_no_key_is_empty_or_logged_twice(family: str, request: pytest.FixtureRequest) -> None:
    run = read_run(request.getfixturevalue(family))
    values = [(key, row["iteration"], value) for row in run.history for key, value in row.items()]
    assert not [key for key, _, value in values if value is None or value in ("NaN", "", [], {})]
    logged = Counter((key, iteration) for key, iteration, _ in values if "/" in key)
    assert [place for place, count in logged.items() if count > 1] == []
    assert [row["iteration"] for row in run.history] == sorted(row["iteration"] for row in run.history)


def test_summaries_have_the_best_and_the_last(segmentation: Path) -> None:
    run = read_run(segmentation)
    for key, best in {"val/source/miou": max, "train/segmenter/segmentation": min}.items():
        values = [value for _, value in run.points(key)]
        assert run.summary[key] == {best.__name__: best(values), "last": values[-1]}
        assert run.metrics[key].step_metric == "iteration"
    assert run.summary["train/round"] == 2


@pytest.mark.parametrize("family", ["segmentation", "people", "styles"])
def test_the_summary_has_the_scores_and_the_price(family: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(family)
    run, left = read_run(run_dir), summary_of(run_dir)
    known = {name: value for name, value in left["test"].items() if value is not None}
    assert known
    assert {name: run.summary[f"test/{name}"] for name in known} == known
    for name in ("iterations", "seconds", "peak_memory_mb", "devices", "selection"):
        assert run.summary[name] == left[name]
    assert run.exit_code == 0


# -- what it was -------------------------------------------------------------------------------------------------------


def test_the_configuration_is_flat(segmentation: Path) -> None:
    config = read_run(segmentation).config
    assert not [key for key, value in config.items() if isinstance(value, dict | list) or "." in key]
    assert (config["run/method"], config["run/data"], config["seed"]) == ("cbst", "toy", 0)
    assert config["method/portion"] == composed("method=cbst").method.portion
    assert config["data/image_size"] == "[32, 48]"
    assert "max_iters" not in config  # Lightning's second copy of the method's arguments


def test_versions_of_code_and_data(segmentation: Path, people: Path) -> None:
    configs = [read_run(run_dir).config for run_dir in (segmentation, people)]
    for config in configs:
        assert {f"run/versions/{name}" for name in ("da_lightning", "torch", "lightning")} <= set(config)
        assert ("run/versions/commit" in config) == (Path(da_lightning.__file__).parents[1] / ".git").exists()
        assert len(config["run/samples/source/names"]) == 16
    streets, persons = configs
    assert [streets[f"run/samples/{name}/samples"] for name in ("source", "target", "tests/target")] == [8, 6, 3]
    assert streets["run/samples/source/names"] != persons["run/samples/source/names"]


def test_a_run_by_itself_is_in_no_group(segmentation: Path) -> None:
    run = read_run(segmentation).run
    assert (run.display_name, run.run_group, run.job_type) == ("cbst/toy/stamp", "", "method")
    assert run.project == "da_lightning"


def test_stages_are_runs_of_one_group(people: Path) -> None:
    method, stage = read_run(people).run, read_run(people / "translator").run
    assert method.run_id != stage.run_id
    assert method.run_group == stage.run_group == "spgan/toy/stamp"
    assert (method.job_type, stage.job_type) == ("method", "translator")
    assert (method.display_name, stage.display_name) == ("spgan/toy/stamp", "spgan/toy/stamp/translator")
    assert list(method.tags) == list(stage.tags) == ["mine"]


def test_jobs_of_a_sweep_are_one_group_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(stages, "train_and_test", lambda cfg, *place: begun.append(cfg.logger))
    sweep = Path("multirun/stamp")
    for option in ("seed=0", "logger.group=mine", "logger=csv"):
        cfg = composed("method=spgan", option)
        stages.train_in_stages(cfg, sweep / "7", "spgan", "toy", sweep, "spgan/toy/stamp/7")
    places = [(logger.group, logger.job_type, logger.name) for logger in begun if logger]
    jobs = [("translator", "spgan/toy/stamp/7/translator"), ("method", "spgan/toy/stamp/7")]
    assert places == [(group, *job) for group in ("multirun/stamp", "mine") for job in jobs]
    assert len(begun) == 6


# -- pictures ----------------------------------------------------------------------------------------------------------


def masks(run: WandbRun, key: str) -> list[dict[str, Any]]:
    """By picture under ``key``: its masks as class ids."""
    (_, logged), *_ = run.points(key)
    assert logged["_type"] == "images/separated"
    for path in logged["filenames"]:
        assert np.array(Image.open(run.file(path))).shape == (32, 48, 3)
    return [
        {name: np.array(Image.open(run.file(mask["path"]))) for name, mask in every.items()}
        for every in logged["all_masks"]
    ]


def test_segmentations_are_masks_with_class_names(segmentation: Path) -> None:
    run = read_run(segmentation)
    expected = {str(i): name for i, name in enumerate(CLASSES)} | {"255": "none"}
    for key, names in {
        "pictures/train_source": {"prediction", "label"},
        "pictures/train_target": {"prediction", "pseudo_label"},
        "pictures/test_target": {"prediction", "label"},
        "pictures/source_only_target": {"prediction", "label"},
        "pictures/pseudo_labels": {"pseudo_label"},
    }.items():
        shown = masks(run, key)
        assert shown
        for maps in shown:
            assert set(maps) == names
            for name, ids in maps.items():
                assert ids.shape[:2] == (32, 48)
                assert set(np.unique(ids)) <= {*range(len(CLASSES)), 255}
                assert run.class_names[f"{key}_wandb_delimeter_{name}"] == expected
    labels = [maps["label"] for maps in masks(run, "pictures/test_target")]
    assert all(len(np.unique(ids)) > 3 for ids in labels)
    assert [iteration for iteration, _ in run.points("pictures/pseudo_labels")] == [1, 3]


def test_the_same_pictures_are_on_the_disk(segmentation: Path) -> None:
    names = {file.stem for file in (segmentation / "pictures").glob("*.png")}
    assert {"train_source", "train_target", "test_target", "source_only_target", "pseudo_labels_round_2"} <= names


def test_rankings_are_tables(people: Path) -> None:
    run = read_run(people)
    ((_, logged),) = run.points("pictures/ranking_target")
    (artifact,) = (a for a in run.artifacts if a.type == "run_table" and "ranking_target" in a.name)
    files = {file.path: Path(file.local_path) for file in artifact.manifest.contents}
    assert all(file.is_relative_to(people / "wandb") for file in files.values())  # until it is sent
    table = json.loads(files["pictures/ranking_target.table.json"].read_text())
    assert (logged["_type"], logged["nrows"]) == ("table-file", len(table["data"]))
    assert table["columns"] == ["query", "person", "camera", "right", "first right", *map(str, range(1, 11))]
    assert table["data"]
    for query, person, camera, right, first, *ranked in table["data"]:
        found = [image for image in ranked if image]
        assert person >= 1 and camera >= 1
        assert 0 <= right <= len(found)
        assert (first is None) == (right == 0) and (first is None or 1 <= first <= len(found))
        for image in (query, *found):
            assert image["_type"] == "image-file"
            assert np.array(Image.open(files[image["path"]])).shape == (38, 38, 3)


def test_translations_and_styles_are_pictures(people: Path, styles: Path) -> None:
    for run_dir, key, columns in ((styles, "train_source", 5), (styles, "test_target", 5)):
        run = read_run(run_dir)
        ((_, logged),) = run.points(f"pictures/{key}")
        assert logged["_type"] in ("image-file", "images/separated")
        grid = np.array(Image.open(run.file(logged["path"])))
        assert grid.shape[1:] == (columns * 34 + 2, 3)
        assert (grid == np.array(Image.open(run_dir / "pictures" / f"{key}.png"))).all()
    translator = read_run(people / "translator")
    assert [key for row in translator.history for key in row if key.startswith("pictures/")]


# -- checkpoints, environment, refusals --------------------------------------------------------------------------------


def test_checkpoints_are_artifacts_on_request(styles: Path, segmentation: Path) -> None:
    (artifact,) = (a for a in read_run(styles).artifacts if a.type == "model")
    (file,) = artifact.manifest.contents
    assert Path(file.local_path) == styles / "checkpoints" / "last.ckpt"
    assert not [a for a in read_run(segmentation).artifacts if a.type == "model"]


def test_a_run_leaves_the_environment_to_the_next(segmentation: Path) -> None:
    assert os.environ.get("WANDB_MODE") != "dryrun"
    assert os.environ.get("WANDB_DATA_DIR") != str(segmentation / "wandb")


def test_without_an_account_the_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    logger = WandbLogger(offline=False, save_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"logger.offline=true"):
        logger.log_hyperparams({})
    logger.close(failed=True)
