"""``resume=auto``: which earlier run a command belongs to."""

import os
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from da_lightning.config import stamp
from da_lightning.config.resume import unfinished_stamp

COMMAND = ["method=cbst", "method.portion=0.3", "resume=auto"]


def run(root: Path, stamp: str, overrides: list[str], checkpoint: bool = True, finished: bool = False) -> None:
    folder = root / "outputs" / "cbst" / "toy_streets" / stamp
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()
    if finished:
        (folder / "metrics.json").write_text('{"test": {}}')


def sweep(root: Path, stamp: str, overrides: list[str]) -> None:
    folder = root / "multirun" / "cbst" / "toy_streets" / stamp
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"hydra": {"overrides": {"task": overrides}}}), folder / "multirun.yaml")


def test_the_newest_unfinished_run_of_the_same_command(tmp_path: Path) -> None:
    run(tmp_path, "1", COMMAND[:2])
    run(tmp_path, "2", COMMAND)
    run(tmp_path, "3", COMMAND, finished=True)
    run(tmp_path, "4", COMMAND, checkpoint=False)
    run(tmp_path, "5", ["method=cbst", "method.portion=0.4"])
    run(tmp_path, "6", ["method=cbst"])
    run(tmp_path, "7", [*COMMAND, "seed=1"])
    assert unfinished_stamp(COMMAND, tmp_path) == "2"
    assert unfinished_stamp(COMMAND[::-1], tmp_path) == "2"
    assert unfinished_stamp(["method=cbst", "resume=auto"], tmp_path) == "6"
    assert unfinished_stamp(["method=unit", "resume=auto"], tmp_path) is None


def test_options_of_hydra_itself_and_deletions(tmp_path: Path) -> None:
    run(tmp_path, "1", COMMAND)  # Hydra keeps its own options apart
    run(tmp_path, "2", [*COMMAND, "~method.network.multi_level"])
    assert unfinished_stamp([*COMMAND, "hydra.verbose=true", "hydra/job_logging=none"], tmp_path) == "1"
    assert unfinished_stamp([*COMMAND, "~method.network.multi_level"], tmp_path) == "2"
    assert unfinished_stamp([*COMMAND, "not an override ["], tmp_path) is None
    assert unfinished_stamp(["--config-dir", "mine", *COMMAND], tmp_path) == "1"
    assert unfinished_stamp([*COMMAND, "-cd", "mine"], tmp_path) == "1"


def test_nothing_is_taken_up_without_being_asked(tmp_path: Path) -> None:
    run(tmp_path, "1", COMMAND[:2])
    assert unfinished_stamp(COMMAND[:2], tmp_path) is None
    assert unfinished_stamp([*COMMAND[:2], "resume=never"], tmp_path) is None


def test_a_sweep_is_taken_up_and_not_mixed_up_with_runs(tmp_path: Path) -> None:
    swept = ["method.portion=0.1,0.2", "resume=auto"]
    run(tmp_path, "1", swept)
    sweep(tmp_path, "2", swept)
    sweep(tmp_path, "3", ["method.portion=0.1,0.3", "resume=auto"])
    assert unfinished_stamp(["-m", *swept], tmp_path) == "2"
    assert unfinished_stamp(["--multirun", *swept], tmp_path) == "2"
    assert unfinished_stamp(swept, tmp_path) == "1"
    assert unfinished_stamp(["-m", "method.portion=0.5,0.6", "resume=auto"], tmp_path) is None


def test_a_run_that_was_stopped_in_a_stage_is_unfinished(tmp_path: Path) -> None:
    run(tmp_path, "1", COMMAND, checkpoint=False)
    assert unfinished_stamp(COMMAND, tmp_path) is None
    stage = tmp_path / "outputs" / "cbst" / "toy_streets" / "1" / "translator" / "checkpoints"
    stage.mkdir(parents=True)
    (stage / "last.ckpt").touch()
    assert unfinished_stamp(COMMAND, tmp_path) == "1"


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.create({"hydra": {"run": {"dir": "run/${oc.env:DA_RUN_STAMP}"}}})
    for expected in ("now", "now_2", "now_3"):
        monkeypatch.setattr(stamp, "_is_new", True)
        monkeypatch.setenv("DA_RUN_STAMP", "now")
        stamp.ClaimFolder().on_run_start(config)
        stamp.claim_folder(lambda: Path("named_by_hand"))
        assert config.hydra.run.dir == f"run/{expected}" and Path("run", expected).is_dir()
    monkeypatch.setattr(stamp, "_is_new", False)  # as in the other processes of a run, or in one that goes on
    stamp.ClaimFolder().on_run_start(config)
    assert config.hydra.run.dir == "run/now_3"


def test_a_stamp_that_is_given_is_kept_and_another_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "_is_new", False)  # as it is afterwards
    monkeypatch.setenv("DA_RUN_STAMP", "given")
    stamp.set_stamp([])
    assert os.environ["DA_RUN_STAMP"] == "given" and not stamp._is_new
    monkeypatch.delenv("DA_RUN_STAMP")
    stamp.set_stamp([])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", os.environ["DA_RUN_STAMP"]) and stamp._is_new
    for name, value, is_new in (("SLURM_NTASKS", "1", True), ("SLURM_NTASKS", "4", False), ("LOCAL_RANK", "0", False)):
        with monkeypatch.context() as started_by_others:
            started_by_others.delenv("DA_RUN_STAMP")
            started_by_others.setenv(name, value)
            stamp.set_stamp([])
            assert stamp._is_new == is_new
