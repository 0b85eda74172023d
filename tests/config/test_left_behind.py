"""Damaged small files of one run do not hide the others."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from da_lightning.config.resume import read_overrides, read_summary, unfinished_stamp
from da_lightning.config.sweep_table import read_jobs
from da_lightning.errors import UserError

COMMAND = ["method=cbst", "seed=1", "resume=auto"]
ALIASES = [(bytes([n]), bytes([n + 1])) for n in b"abcdefghi"]
DAMAGED = {
    "empty": b"",
    "cut": b"- method=cbst\n- 'see",
    "binary": bytes(range(256)),
    "mapping": b"a: 1\n",
    "text": b"x",
    "aliases that expand": b"- &a [x]\n"
    + b"".join(b"- &%b [%b]\n" % (new, b",".join([b"*" + old] * 9)) for old, new in ALIASES),
}


def run(root: Path, stamp: str, overrides: list[str], finished: bool = False) -> Path:
    folder = root / "outputs" / "cbst" / "toy_streets" / stamp
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    (folder / "checkpoints" / "last.ckpt").touch()
    if finished:
        (folder / "metrics.json").write_text('{"test": {}}')
    return folder


def sweep(root: Path, stamp: str, overrides: list[str], finished: bool = False) -> Path:
    folder = root / "multirun" / "cbst" / "toy_streets" / stamp
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"hydra": {"overrides": {"task": overrides}}}), folder / "multirun.yaml")
    if finished:
        (folder / "sweep.csv").touch()
    return folder


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_overrides_are_passed_over_by_name(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "1", COMMAND)
    broken = run(tmp_path, "2", COMMAND) / ".hydra" / "overrides.yaml"
    broken.write_bytes(content)
    assert unfinished_stamp(COMMAND, tmp_path) == "1"
    assert str(broken) in caplog.text
    sweep(tmp_path, "1", COMMAND)
    broken = sweep(tmp_path, "2", COMMAND) / "multirun.yaml"
    broken.write_bytes(content)
    assert unfinished_stamp(["-m", *COMMAND], tmp_path) == "1"
    assert str(broken) in caplog.text


def test_overrides_that_are_none_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, "1", COMMAND)
    run(tmp_path, "2", ["seed=[1,", "method=cbst"])
    assert unfinished_stamp(COMMAND, tmp_path) == "1"
    assert "2 has overrides that cannot be read" in caplog.text
    assert read_overrides(tmp_path / "none.yaml") is None


def test_a_damaged_summary_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.json"
    assert read_summary(file) is None and not caplog.text
    for content in (b"", b'{"test": {"target/miou"', b"[1]", b'{"test": 3}', b"\xff\xfe"):
        file.write_bytes(content)
        caplog.clear()
        assert read_summary(file) is None and str(file) in caplog.text
    file.write_text(json.dumps({"test": {"a": 1.0}}))
    assert read_summary(file) == {"test": {"a": 1.0}}


def test_a_run_with_a_damaged_summary_is_unfinished(tmp_path: Path) -> None:
    (run(tmp_path, "1", COMMAND, finished=True) / "metrics.json").write_text('{"test": {')
    assert unfinished_stamp(COMMAND, tmp_path) == "1"


def test_a_sweep_with_a_damaged_job_has_its_table(tmp_path: Path) -> None:
    for number, summary in enumerate(('{"test": {"a": 1.0}, "objective": "a", "seconds": 2}', '{"test": {"a"')):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text("- seed=0\n" if number == 0 else "- [")
        (tmp_path / str(number) / "metrics.json").write_text(summary)
    whole, damaged = read_jobs(tmp_path)
    assert (whole.score, whole.error) == (1.0, None)
    assert damaged.score is None and str(tmp_path / "1") in str(damaged.error)


# -- what accept_changes leaves aside ----------------------------------------------------------------------------------


def test_a_longer_training_is_the_same_command(tmp_path: Path) -> None:
    run(tmp_path, "1", [*COMMAND, "method.max_iters=10"])
    run(tmp_path, "2", [*COMMAND, "method.max_iters=20"])
    assert unfinished_stamp([*COMMAND, "method.max_iters=30"], tmp_path) == "2"
    assert unfinished_stamp([*COMMAND, "method.max_iters=10"], tmp_path) == "1"
    assert unfinished_stamp(COMMAND, tmp_path) == "2"


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, "1", [*COMMAND, "method.max_iters=10"], finished=True)
    sweep(tmp_path, "1", [*COMMAND, "method.max_iters=10"], finished=True)
    for flags in ([], ["-m"]):
        assert unfinished_stamp([*flags, *COMMAND, "method.max_iters=30"], tmp_path) is None
        assert unfinished_stamp([*flags, "method=cbst", "seed=2", "resume=auto"], tmp_path) is None


CHANGED = [
    ("seed=2", "seed"),
    ("+data.root=/moved", "source,target"),
    ("data.source.count=9", "source"),
    ("data.target.style=game", "target"),
    ("data.batch_size=3", "batch_size"),
    ("data.target_batch_size=3", "batch_size"),
    ("trainer.devices=2", "devices"),
    ("trainer=ddp", "devices"),
    ("data.iterations_per_epoch=3", "epoch_length"),
    ("method.accumulate=2", "accumulate"),
]


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize(("change", "names"), CHANGED)
def test_a_run_that_differs_in_what_can_be_accepted(tmp_path: Path, change: str, names: str, multirun: bool) -> None:
    command = ["method=cbst", "data.source.size=[8,8]", "resume=auto"]
    (sweep if multirun else run)(tmp_path, "1", command[:2])
    given = [*(["-m"] if multirun else []), *command, change]
    with pytest.raises(UserError) as caught:
        unfinished_stamp(given, tmp_path)
    assert f"accept_changes=[{names}]" in str(caught.value) and change in str(caught.value)
    assert "resume=never" in str(caught.value) and "\n" not in str(caught.value)
    assert unfinished_stamp([*given, f"accept_changes=[{names}]"], tmp_path) == "1"
    assert unfinished_stamp([*given, "method.portion=0.3"], tmp_path) is None  # another run altogether


def test_options_stand_for_what_they_set_and_unknown_names_are_refused(tmp_path: Path) -> None:
    run(tmp_path, "1", COMMAND[:2])
    changed = ["method=cbst", "seed=2", "data.batch_size=3", "resume=auto"]
    assert unfinished_stamp([*changed, "accept_changes=[data.batch_size,seed]"], tmp_path) == "1"
    with pytest.raises(UserError, match=r"accept_changes=\[seed,batch_size\]"):
        unfinished_stamp([*changed, "accept_changes=seed"], tmp_path)
    with pytest.raises(UserError, match="accept_changes.*sede.* seed, source, target"):
        unfinished_stamp([*changed, "accept_changes=[sede]"], tmp_path)


def test_what_runs_now_is_no_run_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(tmp_path, "1", COMMAND[:2])
    monkeypatch.setattr("da_lightning.config.resume.is_held", lambda other: other == folder)
    assert unfinished_stamp(["method=cbst", "seed=2", "resume=auto"], tmp_path) is None
    assert unfinished_stamp(COMMAND, tmp_path) == "1"  # which then says who has it
