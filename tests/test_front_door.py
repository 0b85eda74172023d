"""``python -m da_lightning.run`` as users meet it."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from tiny_runs import METHODS, command, composed, run_folders, succeeded, tiny
from torchvision.io import decode_image
from wandb_records import read_run

from da_lightning.errors import NotFiniteError, UserError
from da_lightning.session import train_and_test
from da_lightning.toy.streets import CLASSES

pytestmark = pytest.mark.slow

CBST = ["method=cbst", *tiny("cbst")]
SOURCE_ONLY = ["method=segmentation_source_only", *tiny("segmentation_source_only")]
POISON = "+callbacks.poison={_target_: tiny_runs.Poison, iteration: 2, rank: 1}"
SEVERAL_SECONDS = {
    "csv": CBST,
    "swept": ["-m", *[o for o in CBST if o != "logger=csv"], "method.portion=0.1,0.3", "method.rounds=1"],
    "wrong type": [*CBST, "method.portion=abc"],
    "poisoned": [*SOURCE_ONLY, "trainer.devices=2", POISON, "logger=wandb"],
}


class Runs(dict[str, CompletedProcess[str]]):
    folder: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Everything that has to import torch, two at a time."""
    runs = Runs()
    runs.folder = tmp_path_factory.mktemp("runs")
    closed = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(runs.folder)}
    with ThreadPoolExecutor(2) as pool:
        started = {
            name: pool.submit(command, arguments, runs.folder / name, PYTHONPROFILEIMPORTTIME="1", **closed)
            for name, arguments in SEVERAL_SECONDS.items()
        }
        runs |= {name: future.result() for name, future in started.items()}
    return runs


def imported(run: CompletedProcess[str]) -> set[str]:
    """What ``python -X importtime`` tells of."""
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def refused(run: CompletedProcess[str]) -> str:
    """The message of a command that ended with one, and no traceback."""
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if not line.startswith("import time:")]
    assert "Traceback" not in "\n".join(lines)
    return "\n".join(lines)


# -- without torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_the_configuration_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    """How long they take is in ``benchmarks.start_up``."""
    run = succeeded(command(arguments, tmp_path, PYTHONPROFILEIMPORTTIME="1"))
    assert all(word in run.stdout for word in ("method", "data", "trainer"))
    assert not list(tmp_path.iterdir())
    assert "hydra" in imported(run)
    assert not imported(run) & {"torch", "lightning", "torchvision", "wandb", "matplotlib"}


def test_help_lists_every_method(tmp_path: Path) -> None:
    text = command(["--help"], tmp_path).stdout
    assert all(method in text for method in METHODS)


def test_an_unknown_method_is_answered_with_the_list(tmp_path: Path) -> None:
    message = refused(command(["method=cbstt"], tmp_path))
    assert all(method in message for method in ("cbstt", *METHODS))


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    assert "method.portoin" in refused(command(["method.portoin=1"], tmp_path))


def test_missing_options_are_all_named(tmp_path: Path) -> None:
    message = refused(command(["data=folders"], tmp_path))
    assert "data.source.root, data.target.root" in message
    assert "must be set" in message


def test_resume_is_told_from_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    message = refused(command(["data=toy_streets", "resume=outputs/last.ckpt"], tmp_path))
    assert all(w in message for w in ("resume=auto", "resume=never", "resume=outputs/last.ckpt", "ckpt_path="))


@pytest.mark.parametrize("option", ["trainer.devices=1,2", "trainer.num_nodes=choice(1,2)"])
def test_numbers_of_processes_are_not_swept(option: str, tmp_path: Path) -> None:
    assert f"{option} cannot be swept" in refused(command(["-m", option], tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_group_without_a_choice_is_answered_with_the_list(tmp_path: Path) -> None:
    assert "csv, none, tensorboard, wandb" in refused(command(["logger=null"], tmp_path))


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_results_behind(runs: Runs) -> None:
    run = succeeded(runs["csv"])
    (folder,) = run_folders(runs.folder / "csv")
    assert folder.parent == runs.folder / "csv" / "outputs" / "cbst" / "toy_streets"
    summary = json.loads((folder / "metrics.json").read_text())
    assert (summary["method"], summary["data"], summary["seed"]) == ("cbst", "toy_streets", 0)
    assert (summary["iterations"], summary["devices"]) == (6, 1)
    names = {f"{s}/{m}" for s in ("target", "source") for m in ("miou", *(f"iou/{c}" for c in CLASSES))}
    assert set(summary["test"]) == names | {f"source_only/{name}" for name in names}
    assert str(folder) in run.stdout
    assert "miou" in run.stdout
    torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for picture in ("per_class", "test_target", "train_target", "pseudo_labels_round_2"):
        decode_image(str(folder / "pictures" / f"{picture}.png"))
    assert "Round 2 of 2" in (folder / "log.txt").read_text()
    assert {file.name for file in (folder / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert {"target/miou", "pseudo_labels/share", "round"} <= set(rows[0].split(","))


def test_the_csv_logger_needs_no_wandb(runs: Runs) -> None:
    assert "torch" in imported(runs["csv"])
    assert "wandb" not in imported(runs["csv"])
    assert not list(runs.folder.glob("csv/**/wandb"))


def test_a_sweep_is_one_tree_and_each_job_has_its_results_and_its_wandb_run(runs: Runs) -> None:
    succeeded(runs["swept"])
    folders = run_folders(runs.folder / "swept")
    assert [folder.name for folder in folders] == ["0", "1"]
    assert folders[0].parent == folders[1].parent
    assert (folders[0].parent / "multirun.yaml").is_file()
    overrides = [(folder / ".hydra" / "overrides.yaml").read_text() for folder in folders]
    assert "- method.portion=0.1\n" in overrides[0]
    assert "- method.portion=0.3\n" in overrides[1]
    tests = [json.loads((folder / "metrics.json").read_text())["test"] for folder in folders]
    assert tests[0] != tests[1]
    for folder in folders:
        (offline,) = (folder / "wandb").glob("offline-run-*")
        assert list(offline.glob("*.wandb"))
        assert list((offline / "files" / "media").rglob("*.png"))
    wandb_runs = [read_run(folder) for folder in folders]
    assert len({wandb_run.run.run_id for wandb_run in wandb_runs}) == 2
    (group,) = {wandb_run.run.run_group for wandb_run in wandb_runs}
    assert group == "/".join(folders[0].parent.parts[-2:])
    assert [wandb_run.config["method/portion"] for wandb_run in wandb_runs] == [0.1, 0.3]


def test_a_wrong_type_is_named(runs: Runs) -> None:
    assert "error: method.portion='abc' was refused" in refused(runs["wrong type"])


def test_a_loss_that_is_not_finite_on_one_device_ends_the_run_on_all(runs: Runs) -> None:
    message = refused(runs["poisoned"])
    assert "error: train/segmenter/segmentation is not finite at iteration 2" in message
    assert "error: train/segmenter/a term on another rank is not finite at iteration 2" in message
    (folder,) = run_folders(runs.folder / "poisoned")
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 0
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    assert not (folder / "metrics.json").exists()
    assert read_run(folder).exit_code == 1  # and of two processes one alone has written


# -- in this process ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_settings_restored")
def test_resume_goes_on_keeps_what_was_logged_and_skips_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_runs")
    options = [*CBST, "trainer.log_every_n_steps=1"]

    def start(*more: str) -> float | None:
        return train_and_test(composed(*options, *more), tmp_path, "cbst", "toy_streets")

    def iterations(file: str) -> list[int]:
        lines = [line.split(",") for line in (tmp_path / file).read_text().splitlines()]
        column = lines[0].index("train/iteration")
        return [int(float(line[column])) for line in lines[1:] if line[column]]

    with pytest.raises(NotFiniteError):
        start("+callbacks.poison={_target_: tiny_runs.Poison, iteration: 3}")
    assert not (tmp_path / "metrics.json").exists()
    score = start("resume=auto")
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["test"]["target/miou"] == score
    assert iterations("metrics.0.csv") == [0, 1, 2]
    assert iterations("metrics.csv") == [2, 3, 4, 5]

    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    assert start("resume=auto") == score
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written


@pytest.mark.usefixtures("_settings_restored")
def test_without_test_there_is_no_score(tmp_path: Path) -> None:
    assert train_and_test(composed(*SOURCE_ONLY, "test=false"), tmp_path, "source_only", "toy_streets") is None
    assert json.loads((tmp_path / "metrics.json").read_text())["test"] == {}


@pytest.mark.usefixtures("_settings_restored")
def test_tensorboard_works_or_is_named_as_missing(tmp_path: Path) -> None:
    cfg = composed(*SOURCE_ONLY, "logger=tensorboard")
    if find_spec("tensorboard") or find_spec("tensorboardX"):
        train_and_test(cfg, tmp_path, "source_only", "toy_streets")
        assert list(tmp_path.rglob("events.out.tfevents*"))
    else:
        with pytest.raises(UserError, match=r"^logger\b.*tensorboard"):
            train_and_test(cfg, tmp_path, "source_only", "toy_streets")


@pytest.mark.usefixtures("_settings_restored")
def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.max_epochs=5 has no effect.*method\.max_iters"):
        train_and_test(composed(*SOURCE_ONLY, "trainer.max_epochs=5"), tmp_path, "source_only", "toy_streets")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "source_only.ckpt").touch()  # of an earlier run in this folder, not of this one
    with pytest.raises(UserError, match="objective=target/mIoU is none of the run's scores: give one of .*target/miou"):
        train_and_test(composed(*SOURCE_ONLY, "objective=target/mIoU"), tmp_path, "source_only", "toy_streets")
    assert not any("source_only/" in name for name in json.loads((tmp_path / "metrics.json").read_text())["test"])


def test_trainer_options_that_contradict_each_other_are_told_in_a_sentence(tmp_path: Path) -> None:
    options = [*tiny("segmentation_source_only"), "+trainer.gradient_clip_val=1.0"]
    assert "trainer.gradient_clip_val=1.0 has no effect here" in refused(command(options, tmp_path))
