"""``resume=auto``: which earlier run a command belongs to."""

from pathlib import Path

from omegaconf import OmegaConf

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
        (folder / "metrics.json").touch()


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
