"""Sweeps: presets, refusals, jobs that fail or are stopped, jobs side by side, the table at the end."""

import csv
import json
import logging
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_runs
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tiny_runs import command, composed, run_folders, succeeded, tiny

from da_lightning import run
from da_lightning.config import CONF_DIR, gpus, sweeps

pytestmark = pytest.mark.slow

PRESETS = sorted((file.parent.name, file.stem) for file in (CONF_DIR / "hydra").glob("*/*.yaml"))
SHORT = ["method=segmentation_source_only", *tiny("segmentation_source_only"), "callbacks.pictures=null"]


def with_hydra(*overrides: str) -> DictConfig:
    sweeps.prefer_own_presets()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def rows(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.rglob("sweep.csv")
    with file.open() as stream:
        return list(csv.DictReader(stream))


# -- presets and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_presets_have_the_last_word_over_those_of_plugins(group: str, name: str) -> None:
    node = with_hydra(f"hydra/{group}={name}").hydra[group]
    own = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "hydra" / group / f"{name}.yaml"))
    given = OmegaConf.to_container(node)
    assert {key: given.get(key) for key in own if key != "defaults"} == {
        k: v for k, v in own.items() if k != "defaults"
    }
    assert node._target_.startswith("hydra_plugins.")


def test_the_search_for_cbst_is_for_more_of_options_that_cbst_has() -> None:
    sweeper = with_hydra("hydra/sweeper=optuna_cbst").hydra.sweeper
    assert sweeper.direction == "maximize"
    cfg = composed("method=cbst")
    for key in sweeper.params:
        assert OmegaConf.select(cfg, key) is not None, key


def test_slurm_starts_as_many_processes_as_there_are_devices() -> None:
    launcher = with_hydra("hydra/launcher=submitit_slurm", "trainer.devices=4", "trainer.num_nodes=2").hydra.launcher
    assert (launcher.tasks_per_node, launcher.gpus_per_node, launcher.nodes) == (4, 4, 2)


def test_as_many_jobs_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, jobs in (("0,2,5", 3), ("", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert with_hydra("hydra/launcher=joblib").hydra.launcher.n_jobs == jobs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["hydra/sweeper=optuna", "resume=auto"], "hydra.sweeper.storage="),
        (["hydra/sweeper=optuna", "trainer.devices=2"], "set trainer.devices=1"),
        (["hydra/launcher=joblib", "trainer.devices=[0,1]"], "set trainer.devices=1"),
        (["hydra/launcher=ray"], "pip install 'da-lightning[ray]'"),
        (["hydra/launcher=submitit_slurm"], "pip install 'da-lightning[slurm]'"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_job(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_is_installed", lambda package: "joblib" in package or "optuna" in package)
    with pytest.raises(SystemExit, match="^error: ") as refusal:
        sweeps.Sweep().on_multirun_start(with_hydra(*options))
    assert message in str(refusal.value)


def test_processes_take_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    locks, taken = [], []
    for _ in range(5):
        monkeypatch.setattr(gpus, "_taken", None)  # as in a new process
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab")
        for _ in range(2):  # its second job stays where it is
            gpus.take_gpu()
        locks.append(gpus._taken)
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
        if len(locks) == 4:
            locks[1].release()  # that process ends
    assert taken == ["3", "GPU-ab", "3", "GPU-ab", "GPU-ab"]


# -- in this process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def _settings_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


def swept(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Why the command ended."""
    monkeypatch.setattr(sys, "argv", ["run", "-m", *arguments])
    with pytest.raises(SystemExit) as end:
        run.main()
    return str(end.value)


@pytest.mark.usefixtures("_settings_restored")
def test_a_sweep_survives_a_failed_job_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SHORT, "method.max_iters=2,abc,4", "+callbacks.kill={_target_: tiny_runs.Kill}", "resume=auto"]
    arguments.append("trainer.log_every_n_steps=1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_runs")
    monkeypatch.setenv("DA_RUN_STAMP", "once")

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stop:
        stop.setenv("KILL", "iteration 3")
        stop.setattr(tiny_runs, "os", SimpleNamespace(environ=os.environ, kill=interrupt, getpid=os.getpid))
        swept(monkeypatch, *arguments)
    first, failed, stopped = run_folders(tmp_path)
    assert [row["error"] for row in rows(tmp_path)][2] == "error: it ended before it was finished."
    assert "max_iters='abc' was refused" in (failed / "error.txt").read_text()
    assert (stopped / "checkpoints" / "last.ckpt").is_file() and not (stopped / "metrics.json").exists()

    written = (first / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert "1 of 3 jobs failed (1)" in swept(monkeypatch, *arguments)
    assert (first / "metrics.json").stat().st_mtime_ns == written
    assert len(list(stopped.glob("metrics*.csv"))) == 2  # it was resumed
    summaries = [json.loads((folder / "metrics.json").read_text()) for folder in (first, stopped)]
    expected = [str(summary["test"]["target/miou"]) for summary in summaries]
    table = rows(tmp_path)
    assert [row["job"] for row in table] == ["0", "1", "2"]
    assert [row["method.max_iters"] for row in table] == ["2", "abc", "4"]
    assert [row["score"] for row in table] == [expected[0], "", expected[1]]
    assert [bool(row["error"]) for row in table] == [False, True, False]
    printed = capsys.readouterr().out
    assert "target/miou" in printed and "failed" in printed
    assert "job 1: error: method.max_iters='abc' was refused" in printed


@pytest.mark.usefixtures("_settings_restored")
def test_any_other_error_is_logged_in_its_jobs_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(cfg: DictConfig, *_: object) -> float:
        if cfg.seed == 0:
            raise RuntimeError("CUDA out of memory")
        return 0.5

    monkeypatch.setattr("da_lightning.stages.train_and_test", broken)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DA_RUN_STAMP", "once")
    assert "2 of 2 jobs failed (0, 1)" in swept(monkeypatch, "seed=0,1")  # the second has left no metrics.json
    first, second = run_folders(tmp_path)
    text = (first / "log.txt").read_text()
    assert "Traceback" in text and "CUDA out of memory" in text
    assert not (second / "log.txt").exists()  # made with its first line, which the second has not
    assert [row["error"][:24] for row in rows(tmp_path)] == ["RuntimeError('CUDA out o", "error: it ended before i"]


# -- other processes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", ["joblib_launcher", "optuna_sweeper"])
def test_plugin(plugin: str, side_by_side: Path) -> None:
    folders = run_folders(side_by_side)
    assert [folder.name for folder in folders] == ["0", "1"]
    table = rows(side_by_side)
    scores = [json.loads((folder / "metrics.json").read_text())["test"]["target/miou"] for folder in folders]
    assert [float(row["score"]) for row in table] == scores
    if plugin == "joblib_launcher":
        gpus = [(folder / "log.txt").read_text().partition("On GPU ")[2][:2] for folder in folders]
        assert sorted(gpus) == ["0.", "1."]
    else:
        best = OmegaConf.load(folders[0].parent / "optimization_results.yaml")
        assert best.best_value == max(scores)
        assert best.best_params["seed"] == int(table[scores.index(max(scores))]["seed"])


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two jobs at once, each on one of two GPUs (which the CPU build of torch does not look for)."""
    for plugin in ("hydra_joblib_launcher", "hydra_optuna_sweeper"):
        if not sweeps._is_installed(f"hydra_plugins.{plugin}"):
            pytest.skip(f"{plugin} is not installed: pip install 'da-lightning[sweep]'")
    folder = tmp_path_factory.mktemp("side_by_side")
    plugins = ["hydra/launcher=joblib", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    options = [*SHORT, "method.max_iters=2", "hydra.sweeper.sampler.seed=0", "seed=range(0,100)"]
    succeeded(command(["-m", *plugins, *options], folder, CUDA_VISIBLE_DEVICES="0,1", TMPDIR=str(folder)))
    return folder


def test_both_plugins_are_tested_where_the_development_extra_is_installed() -> None:
    assert find_spec("hatchling") is None or sweeps._is_installed("hydra_plugins.hydra_joblib_launcher")
