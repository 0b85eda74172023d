"""One folder a sweep, whatever differs between its jobs; every planned job is counted; old trees are read."""

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins import basic_launcher
from omegaconf import DictConfig

from da_lightning import run
from da_lightning.config import stamp, sweeps
from da_lightning.report import report
from da_lightning.reporting.sweep_folder import write_plan

pytestmark = pytest.mark.slow

EXPERIMENTS = {
    "one": "# @package _global_\ndefaults:\n  - override /method: munit\n",
    "two": "# @package _global_\nmethod:\n  portion: 0.3\n",
    "wide": "# @package _global_\ntrainer:\n  devices: 2\n",
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DA_RUN_STAMP", raising=False)
    monkeypatch.setattr("da_lightning.stages.train_and_test", trained)
    for name, text in EXPERIMENTS.items():
        file = tmp_path / "conf" / "experiment" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    yield
    os.environ.pop("DA_RUN_STAMP", None)


def trained(cfg: DictConfig, run_dir: Path, method: str, data_name: str) -> float:
    """A run without training; seed 13 fails."""
    if cfg.seed == 13:
        raise RuntimeError("unlucky")
    objective = "target/fid" if method == "munit" else "target/miou"
    summary = {"method": method, "data": data_name, "objective": objective, "seconds": 1.0, "seed": cfg.seed}
    (run_dir / "metrics.json").write_text(json.dumps({**summary, "test": {objective: 0.5}}))
    return 0.5


def swept(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | None:
    """Why the command has failed, if it has."""
    monkeypatch.setattr(sys, "argv", ["run", "-m", "--config-dir", "conf", *arguments])
    try:
        run.main()
    except SystemExit as end:
        return str(end.code)
    return None


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        (["method=cbst,munit"], [{"method": "cbst", "data": "toy_streets"}, {"method": "munit", "data": "toy_shoes"}]),
        (["data=toy_streets,image_label_folders"], None),
        (["experiment=one,two"], [{"experiment": "one", "method": "munit"}, {"experiment": "two", "method": "cbst"}]),
        (["selection=last,source"], [{"selection": "last"}, {"selection": "source"}]),
        (["method=cbst"], [{}]),
    ],
)
def test_jobs_share_a_root_and_a_table(
    arguments: list[str], columns: list[dict[str, str]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = swept(monkeypatch, *arguments)
    (root,) = Path("multirun").iterdir()
    assert {"jobs.json", "multirun.yaml", "sweep.csv"} <= {entry.name for entry in root.iterdir()}
    rows = table(root)
    assert [row["job"] for row in rows] == [str(number) for number in range(len(rows))]
    assert all((root / row["job"] / ".hydra" / "config.yaml").is_file() for row in rows)
    if columns is None:  # a job without its folders is refused, and counted
        assert end and "1 of 2 jobs failed (1)" in end
        assert [row["data"] for row in rows] == ["toy_streets", "image_label_folders"]
        return
    assert end is None
    differing = set(rows[0]) - {"job", "objective", "score", "seconds", "error"}
    expected = set(columns[0]) | ({"data"} if "one" in arguments[0] else set())
    assert differing == expected
    for row, own in zip(rows, columns, strict=True):
        assert {key: row[key] for key in own} == own
    assert (root / "report.html").is_file()


def test_two_keys_at_once_and_every_job_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end = swept(monkeypatch, "method=cbst,munit", "seed=0,13")
    assert end and end.startswith("error: 2 of 4 jobs failed (1, 3)")
    (root,) = Path("multirun").iterdir()
    assert [(row["method"], row["seed"], bool(row["error"])) for row in table(root)] == [
        ("cbst", "0", False),
        ("cbst", "13", True),
        ("munit", "0", False),
        ("munit", "13", True),
    ]
    printed = capsys.readouterr().out
    assert "target/fid 0.5" in printed and "target/miou 0.5" in printed  # scores of two kinds name their kind
    page = (root / "report.html").read_text()
    assert "still running: 1, 3." in page and "munit" in page


def test_jobs_that_never_began_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_job(config: DictConfig, **rest: Any) -> Any:
        if config.hydra.job.num == 1:
            raise OSError(28, "No space left on device")
        return original(config=config, **rest)

    original = basic_launcher.run_job
    monkeypatch.setattr(basic_launcher, "run_job", run_job)
    end = swept(monkeypatch, "method=cbst,munit", "seed=0,1")
    assert end and "3 of 4 jobs failed (1, 2, 3)" in end and "No space left" in end
    (root,) = Path("multirun").iterdir()
    assert [row["error"] for row in table(root)] == ["", *3 * ["error: it never began."]]
    assert [row["method"] for row in table(root)] == ["cbst", "cbst", "munit", "munit"]
    assert "Jobs that never began: 1, 2, 3." in (root / "report.html").read_text()


def test_a_killed_sweep_has_a_page_that_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert swept(monkeypatch, "seed=0") is None
    (root,) = Path("multirun").iterdir()
    write_plan(root, [["seed=0"], ["seed=1"], ["seed=2"]])
    (root / "1" / ".hydra").mkdir(parents=True)
    (root / "1" / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    page = report([root]).read_text()
    assert "still running: 1." in page and "Jobs that never began: 2." in page
    sentence = sweeps.conclude(root)
    assert sentence and sentence.startswith("error: 2 of 3 jobs failed (1, 2)")


def test_what_hydra_refuses_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert swept(monkeypatch, "method=cbst,nonsense") == "1"
    assert swept(monkeypatch, "method=cbst,munit", "method.portion=0.1") == "1"
    assert not Path("multirun").exists()


@pytest.mark.parametrize("swept_key", ["experiment=two,wide", "trainer=cpu,ddp", "+trainer.devices=1,2"])
def test_jobs_of_different_numbers_of_processes_are_refused(swept_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "_processes", lambda trainer: 1 if trainer.devices in (1, "auto") else 2)
    end = swept(monkeypatch, swept_key, *(["trainer.devices=2"] if "cpu,ddp" in swept_key else []))
    if "cpu,ddp" in swept_key:  # the same number for both
        assert end is None
    else:
        assert end and ("different numbers of processes (1, 2)" in end or end == "1")
        assert not Path("multirun").exists()


def test_a_folder_that_is_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["hydra.sweep.dir=mine/sweep", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    assert swept(monkeypatch, "seed=0,1", *options) is None
    assert [row["seed"] for row in table(Path("mine/sweep"))] == ["0", "1"]
    assert [row["job"] for row in table(Path("mine/sweep"))] == ["seed=0", "seed=1"]
    assert not Path("multirun").exists()


def test_sweeps_of_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon:
        @staticmethod
        def now() -> "Noon":
            return Noon()

        def strftime(self, _: str) -> str:
            return "noon"

    monkeypatch.setattr(stamp, "datetime", Noon)
    for method in ("cbst", "munit"):
        assert swept(monkeypatch, f"method={method}") is None
        os.environ.pop("DA_RUN_STAMP")
    assert sorted(folder.name for folder in Path("multirun").iterdir()) == ["noon", "noon_2"]


# -- trees of earlier versions: multirun/<method>/<data>/<stamp>/<number> ----------------------------------------------

OLD = ["hydra.sweep.dir=multirun/${hydra.runtime.choices.method}/${hydra.runtime.choices.data}/then"]


def test_an_old_tree_is_taken_up_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["method=cbst,munit", "seed=0,1", "resume=auto"]
    assert swept(monkeypatch, *command, *OLD) is None
    os.environ.pop("DA_RUN_STAMP")
    root = Path("multirun/cbst/toy_streets/then")
    for left in ("jobs.json", "sweep.csv", "report.html"):
        (root / left).unlink()
    assert Path("multirun/munit/toy_shoes/then/3/metrics.json").is_file()
    page = report([root]).read_text()
    assert "munit" in page and "4 runs" in page

    assert swept(monkeypatch, *command) is None
    assert [row["method"] for row in table(root)] == ["cbst", "cbst", "munit", "munit"]
    assert not Path("multirun/then").exists() and not list(Path("multirun").glob("2*"))


# -- the name of the folder --------------------------------------------------------------------------------------------

BAD_STAMPS = [
    "../x",
    "/tmp/x",
    "",
    "a/b",
    "a\nb",
    "..",
    ".",
    ".hidden",
    "~",
    "x" * 101,
    "a b",
    "a\\b",
    "\x1b[31m",
    "${x}",
]


@pytest.mark.parametrize("name", BAD_STAMPS)
@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_stamp_that_is_no_folders_name_is_refused(
    name: str, mode: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_RUN_STAMP", name)
    monkeypatch.setattr(sys, "argv", ["run", *mode])
    with pytest.raises(SystemExit, match="^error: DA_RUN_STAMP=.* cannot name a run's folder") as refusal:
        run.main()
    assert str(refusal.value).isprintable()
    assert [entry.name for entry in Path().iterdir()] == ["conf"]


@pytest.mark.parametrize("name", ["2026-11-30_10-00-00", "2026-11-30T10:00:00+01:00", "12345_7", "v1.2", "朝"])
def test_a_stamp_of_ones_own_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DA_RUN_STAMP", name)
    assert swept(monkeypatch, "method=cbst") is None
    assert Path("multirun", name, "0", "metrics.json").is_file()


@pytest.mark.parametrize("choice", ["../data/toy_streets", "../../conf/data/mine"])
def test_a_choice_that_leaves_the_folder_is_refused(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("conf/data").mkdir()
    Path("conf/data/mine.yaml").write_text("defaults: [toy_streets]\n")
    monkeypatch.setattr(sys, "argv", ["run", "--config-dir", "conf", f"data={choice}"])
    with pytest.raises(SystemExit, match="part of the run's folder|1"):
        run.main()
    assert [entry.name for entry in Path().iterdir()] == ["conf"]


@pytest.mark.parametrize("name", ["../x", "checkpoints", ".x", "a/b", "/tmp/x"])
@pytest.mark.parametrize("is_provided", [False, True])
def test_a_stage_stays_in_the_runs_folder(
    name: str, is_provided: bool, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    if is_provided and name in ("checkpoints", "a/b"):
        pytest.skip("a stage may provide any part of its folder")
    stage, part = ("mine", name) if is_provided else (name, "part")
    Path("conf/experiment/evil.yaml").write_text(
        f"# @package _global_\nstages:\n  {stage}:\n    needed: true\n    provides: {{method.init_from: {part}}}\n"
    )
    monkeypatch.setattr(sys, "argv", ["run", "--config-dir", "conf", "experiment=evil"])
    with pytest.raises(SystemExit):
        run.main()
    assert "error: stages." in capfd.readouterr().err
