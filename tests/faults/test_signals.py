"""Signals to real runs, of any family, at any moment and to any of their processes.

Each ends with the sentence, the signal's exit status, no traceback, no scores and no process left; ``resume=auto`` then
ends with the weights of the undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_runs import alone, assert_same_training, command, run_folders, started, succeeded, tiny
from wandb_records import read_run

import da_lightning

KILL = "+callbacks.kill={_target_: tiny_runs.Kill}"
TWO, WORKERS = "trainer.devices=2", "data.num_workers=2"
STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 138, "SIGUSR2": 140}
OPTIONS = {
    "cbst": ("method=cbst", *tiny("cbst"), "method.spatial_prior=true"),
    "munit": ("method=munit", *tiny("munit")),
    "ecn": ("method=ecn", *tiny("ecn")),
    "spgan": ("method=spgan", *tiny("spgan")),
    "selected": ("method=segmentation_source_only", *tiny("segmentation_source_only"), "selection=source"),
    "two": ("method=cbst", *tiny("cbst"), TWO),
    "two, workers": ("method=ecn", *tiny("ecn"), *alone("ecn"), TWO, "data.num_workers=1"),
}


class Fault(NamedTuple):
    run: str
    moment: str
    signal: str = "SIGTERM"
    lost: int | None = None
    whom: str = "self"
    rank: str = "0"
    options: tuple[str, ...] = ()


FAULTS = [
    Fault("cbst", "built 1", "SIGTERM"),
    Fault("cbst", "iteration 2", "SIGTERM", 1),
    Fault("cbst", "iteration 4", "SIGINT", 1, "group", options=(WORKERS,)),
    Fault("cbst", "iteration 2", "SIGTERM", 1, "group", options=(WORKERS,)),
    Fault("cbst", "label 3", "SIGUSR1"),
    Fault("cbst", "label 9", "SIGHUP", options=(WORKERS,)),
    Fault("cbst", "test 1", "SIGUSR2", 0),
    Fault("cbst", "hang 4", "SIGTERM", 1),
    Fault("munit", "iteration 2", "SIGUSR1", 1, options=(WORKERS,)),
    Fault("munit", "iteration 3", "SIGINT", 0),  # the last of an epoch, which is saved first
    Fault("munit", "test 1", "SIGTERM", 0),
    Fault("ecn", "iteration 2", "SIGTERM", 1),  # of the stage
    Fault("ecn", "translation 2", "SIGUSR2"),
    Fault("spgan", "translation 5", "SIGTERM", options=(WORKERS,)),
    Fault("selected", "half */checkpoints/selected_source.ckpt 1", "SIGTERM"),
    Fault("two", "iteration 2", "SIGTERM", 1),
    Fault("two", "iteration 2", "SIGUSR1", 1, rank="1"),
    Fault("two", "iteration 2", "SIGTERM", 1, "parent", rank="1"),
    Fault("two", "label 2", "SIGUSR2", rank="1"),
    Fault("two", "hang 4", "SIGTERM", 1, rank="1"),
    Fault("two, workers", "iteration 2", "SIGINT", 1, "group"),
    Fault("two, workers", "iteration 2", "SIGTERM", 1, "group"),
    Fault("two, workers", "hang 3", "SIGTERM", whom="group"),
]


@cache
def undisturbed(name: str, top: Path) -> Path:
    folder = top / name.replace(", ", "_")
    succeeded(command([*OPTIONS[name], KILL], folder))
    return max(run_folders(folder), key=lambda run: -len(run.parts))


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


def living(mark: str) -> list[str]:
    """Commands of processes that were started with this mark in the environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if mark.encode() in (folder / "environ").read_bytes() and state != "Z":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def assert_stopped(process: subprocess.CompletedProcess[str], name: str, folder: Path, mark: str) -> str:
    text = process.stdout + process.stderr
    assert process.returncode == STATUS[name], text
    assert "Traceback" not in text, text
    (sentence,) = (line for line in process.stderr.splitlines() if f"Stopped by {name} " in line)
    assert "iterations" in sentence and "resume=auto" in sentence
    assert "data.iterations_per_epoch" in sentence or "after this stage" in sentence
    for _ in range(100):
        if not living(mark):
            break
        time.sleep(0.3)
    assert not living(mark)
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("hpc_ckpt*"))
    return sentence


@pytest.mark.parametrize(
    "fault", FAULTS, ids=lambda fault: " ".join((fault.run, fault.moment, fault.signal, fault.whom))
)
def test_a_run_stops_and_continues_bit_for_bit(fault: Fault, top: Path, tmp_path: Path) -> None:
    whole = undisturbed(fault.run, top)
    options, mark = [*OPTIONS[fault.run], KILL, *fault.options], uuid.uuid4().hex
    environment = {"KILL": fault.moment, "KILL_SIGNAL": fault.signal, "KILL_WHOM": fault.whom, "KILL_RANK": fault.rank}
    stopped = command(options, tmp_path, MARK=mark, **environment)
    sentence = assert_stopped(stopped, fault.signal, tmp_path, mark)
    run = min(run_folders(tmp_path), key=lambda run: len(run.parts))
    assert not (run / "metrics.json").exists()
    assert fault.lost is None or f" {fault.lost} iterations " in sentence
    succeeded(command([*options, "resume=auto"], tmp_path, KILL_RANK=fault.rank))
    (ended,) = {file.parent for file in tmp_path.glob("outputs/*/*/*/metrics.json")}
    assert_same_training(*(folder / "checkpoints" / "last.ckpt" for folder in (ended, whole)))
    scores = [json.loads((folder / "metrics.json").read_text())["test"] for folder in (ended, whole)]
    assert scores[0] == scores[1]


def test_before_anything_is_built(tmp_path: Path) -> None:
    for name in ("SIGTERM", "SIGINT"):
        with started(["method=cbst"], tmp_path / name) as process:
            while "SigCgt:\t0000000000000000" in (status := Path(f"/proc/{process.pid}/status").read_text()):
                time.sleep(0.01)  # Python has yet to begin
            mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
            while not mask >> (signal.SIGTERM - 1) & 1:
                time.sleep(0.01)
                status = Path(f"/proc/{process.pid}/status").read_text()
                mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
            process.send_signal(getattr(signal, name))
            out, errors = process.communicate(timeout=120)
        assert process.returncode == STATUS[name]
        assert f"Stopped by {name} before training began, 0 iterations are lost" in errors
        assert "Traceback" not in out + errors


def test_the_logger_is_closed_as_failed(tmp_path: Path) -> None:
    options = [word for word in OPTIONS["cbst"] if word != "logger=csv"]
    mark = uuid.uuid4().hex
    stopped = command([*options, KILL], tmp_path, MARK=mark, KILL="iteration 2", KILL_SIGNAL="SIGTERM")
    assert_stopped(stopped, "SIGTERM", tmp_path, mark)
    (run,) = run_folders(tmp_path)
    assert read_run(run).exit_code == 1


SWEPT = ["-m", *OPTIONS["cbst"], KILL, "seed=0,1"]


@pytest.mark.parametrize("further", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["one", "joblib"])
@pytest.mark.parametrize("whom", ["self", "group", "parent"])
def test_a_sweep_ends_and_is_taken_up(further: Sequence[str], whom: str, tmp_path: Path) -> None:
    if whom == "parent" and not further:
        pytest.skip("jobs one after another are in the command's own process")
    mark = uuid.uuid4().hex
    options = [*SWEPT, *further]
    environment = {"KILL": "iteration 2", "KILL_SIGNAL": "SIGTERM", "KILL_WHOM": whom}
    stopped = command(options, tmp_path, MARK=mark, **environment)
    text = stopped.stdout + stopped.stderr
    assert stopped.returncode == 143 and "Traceback" not in text, text
    assert "Stopped by SIGTERM" in stopped.stderr and "job" in stopped.stdout
    for _ in range(100):
        if not living(mark):
            break
        time.sleep(0.3)
    assert not living(mark)
    assert not list(tmp_path.rglob("metrics.json"))
    if not further:
        assert len(list(tmp_path.glob("multirun/**/.hydra"))) == 1, "another job has begun"
    succeeded(command([*options, "resume=auto"], tmp_path, KILL="never 0"))
    assert len(list(tmp_path.glob("multirun/*/*/metrics.json"))) == 2


def test_nohup_is_left_alone(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = command([*OPTIONS["cbst"], KILL], tmp_path, KILL="iteration 2", KILL_SIGNAL="SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)
    succeeded(run)


def test_under_torchrun(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words += ["-m", "da_lightning.run", *OPTIONS["two"], KILL]
    paths = [str(Path(__file__).parents[1]), str(Path(da_lightning.__file__).parents[1])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DA_", "WANDB_", "PYTEST_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "DA_TRUSTED_PACKAGES": "tiny_runs"}
    environment |= {"KILL": "iteration 2", "KILL_SIGNAL": "SIGTERM", "KILL_WHOM": "parent", "MARK": mark}
    run = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0
    assert "Stopped by SIGTERM" in run.stderr and "1 iterations since the last epoch's end are lost" in run.stderr
    for _ in range(100):
        if not living(mark):
            break
        time.sleep(0.3)
    assert not living(mark)
