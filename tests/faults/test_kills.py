"""Runs that are killed again and again, by SIGKILL, end with the weights and scores of the undisturbed run.

A chain is one run: each command takes it up by ``resume=auto`` and is killed at its moment, the last one ends it.
"""

import json
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_runs import alone, assert_same_training, command, run_folders, started, succeeded, tiny

KILL = "+callbacks.kill={_target_: tiny_runs.Kill}"
WORKERS = "data.num_workers=2"
LAST = "half */checkpoints/last.ckpt"
CBST = (
    *("method=cbst", *tiny("cbst"), "method.source_iters=4", "method.iters_per_round=4", "method.rounds=3"),
    *("method.max_iters=null", "method.source_share=0.5", "method.source_share_step=0.25", "data.crop_size=[24,32]"),
)
"""Eight epochs of two iterations: labels are made at the ends of the second, fourth and sixth."""

LONGER = "method.max_iters=16"


class Chain(NamedTuple):
    options: tuple[str, ...]
    moments: tuple[str, ...]


CHAINS = {
    "segmentation": Chain(
        (*CBST, "method.target_statistics=true"),
        (
            "iteration 0",  # before there is a checkpoint: the next begins as a new run
            "iteration 2",
            f"{LAST} 1",
            "half */pseudo_labels/*.png 3",
            "half */pseudo_labels/round_1 1",
            f"{LAST} 1",  # with labels of the round on the disk
            "iteration 6",
            "half */pseudo_labels/*.png 8",  # of the third round
            "iteration 13",
            "test 1",
        ),
    ),
    "segmentation, workers": Chain(
        (*CBST, WORKERS, "callbacks=ema", "selection=entropy"),
        (
            "half */checkpoints/selected_entropy.ckpt 1",  # the next begins as a new run
            "iteration 3",
            "half */pseudo_labels/*.png 5",
            f"{LAST} 2",
            "iteration 8",
            "half */pseudo_labels/round_3 1",
            "iteration 10",
            f"{LAST} 1",
            "iteration 12",
            "test 1",
        ),
    ),
    "translation": Chain(
        ("method=munit", *tiny("munit"), LONGER, "callbacks=ema"),
        (
            "iteration 2",
            f"{LAST} 1",
            "iteration 3",
            f"{LAST} 2",
            "iteration 7",
            "iteration 8",
            f"{LAST} 1",
            "iteration 11",
            f"{LAST} 2",
            "test 1",
        ),
    ),
    "translation, workers": Chain(
        ("method=cyclegan", *tiny("cyclegan"), LONGER, WORKERS),
        (
            "iteration 3",
            f"{LAST} 1",
            "iteration 4",
            "iteration 7",
            f"{LAST} 2",
            "iteration 8",
            f"{LAST} 1",
            "iteration 11",
            "iteration 15",
            "test 1",
        ),
    ),
    "re-ID": Chain(
        ("method=spgan", *tiny("spgan"), LONGER),
        (
            "iteration 3",  # of the translator
            f"{LAST} 1",
            "iteration 5",
            "half */translated/*.png 5",
            "half */translated/*.png 3",
            "iteration 3",  # of re-ID
            f"{LAST} 1",
            "iteration 7",
            f"{LAST} 2",
            "test 1",
        ),
    ),
    "re-ID, workers": Chain(
        ("method=ecn", *tiny("ecn"), LONGER, WORKERS),
        (
            "iteration 2",  # of the translator of camera styles
            f"{LAST} 1",
            "half *_fake_*.png 5",
            "half *_fake_*.png 3",
            "iteration 3",  # of ECN
            f"{LAST} 1",
            "iteration 6",
            "iteration 9",
            f"{LAST} 2",
            "test 1",
        ),
    ),
}

TWO_DEVICES = {
    "cbst": Chain(
        (*CBST, WORKERS, "trainer.devices=2"),
        ("1 iteration 3", "1 half */pseudo_labels/*.png 2", "0 iteration 7", f"0 {LAST} 1", "1 iteration 12"),
    ),
    "ecn": Chain(
        ("method=ecn", *tiny("ecn"), *alone("ecn"), LONGER, WORKERS, "trainer.devices=2"),
        ("1 iteration 3", f"0 {LAST} 1", "0 iteration 5", "1 iteration 8", "1 iteration 11"),
    ),
}


def assert_end_as_if_undisturbed(options: tuple[str, ...], folder: Path) -> None:
    """Finish the run in ``folder/killed`` and compare it with one that nothing disturbed."""
    succeeded(command([*options, KILL, "resume=auto"], folder / "killed"))
    succeeded(command(options, folder / "whole"))
    resumed, whole = (finished(folder / name) for name in ("killed", "whole"))
    places = [file.relative_to(whole) for file in whole.rglob("last.ckpt")]
    assert places
    for place in places:  # stages have their own
        assert_same_training(resumed / place, whole / place)
    scores = [json.loads((run / "metrics.json").read_text())["test"] for run in (resumed, whole)]
    assert scores[0] == scores[1]
    assert not list(resumed.rglob("*.partial"))
    made = [
        sorted(f.relative_to(run) for f in run.rglob("*.png") if "pictures" not in f.parts) for run in (resumed, whole)
    ]
    assert made[0] == made[1]
    for file in made[0]:
        assert (resumed / file).read_bytes() == (whole / file).read_bytes(), file


def finished(folder: Path) -> Path:
    (run,) = (run for run in run_folders(folder) if (run / "metrics.json").is_file())
    return run


@pytest.mark.parametrize("name", CHAINS)
def test_killed_ten_times(name: str, tmp_path: Path) -> None:
    options, moments = CHAINS[name]
    for moment in moments:
        run = command([*options, KILL, "resume=auto"], tmp_path / "killed", KILL=moment)
        assert run.returncode == -signal.SIGKILL, f"{moment}: {run.returncode}\n{run.stdout}{run.stderr}"
    assert_end_as_if_undisturbed(options, tmp_path)


@pytest.mark.parametrize("method", TWO_DEVICES)
def test_two_devices_of_which_one_is_killed(method: str, tmp_path: Path) -> None:
    options, moments = TWO_DEVICES[method]
    for moment in moments:
        rank, _, when = moment.partition(" ")
        # It returns when all who write to its output are gone: both ranks and their workers.
        run = command([*options, KILL, "resume=auto"], tmp_path / "killed", KILL=when, KILL_RANK=rank)
        assert run.returncode != 0, f"{moment}\n{run.stdout}{run.stderr}"
        assert not list((tmp_path / "killed").rglob("metrics.json"))
    assert_end_as_if_undisturbed(options, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_moments_that_nobody_chose(workers: int, tmp_path: Path) -> None:
    """Each time within a third of a second after a checkpoint was written; six of them come to no training's end."""
    options = (*CBST, f"data.num_workers={workers}", "method.iters_per_round=24")
    draw = random.Random(workers)
    kills = 0
    for _ in range(6):
        known = checkpoint_times(tmp_path / "killed")
        with started([*options, KILL, "resume=auto"], tmp_path / "killed") as process:
            while process.poll() is None and checkpoint_times(tmp_path / "killed") == known:
                time.sleep(0.02)
            time.sleep(draw.random() / 3)
            process.kill()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 6
    assert_end_as_if_undisturbed(options, tmp_path)


def checkpoint_times(folder: Path) -> list[int]:
    times = []
    for file in folder.rglob("last.ckpt"):
        with suppress(FileNotFoundError):  # it is being replaced
            times.append(file.stat().st_mtime_ns)
    return sorted(times)


def test_killed_while_it_translates_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    line = ["method=spgan", *tiny("spgan"), "+callbacks.kill={_target_: tiny_runs.Kill}", "resume=auto"]
    succeeded(command(line, whole))
    assert command(line, stopped, KILL="translation 5").returncode == -signal.SIGKILL
    (run,) = run_folders(stopped)
    translated = run / "translator" / "translated"
    assert len(list(translated.rglob("*.png"))) == 4
    begun = {file: file.stat().st_mtime_ns for file in translated.rglob("*.png")}
    succeeded(command(line, stopped))
    assert run_folders(stopped) == [run]
    (reference,) = run_folders(whole)
    for part in ("", "translator"):
        assert_same_training(*(folder / part / "checkpoints" / "last.ckpt" for folder in (run, reference)))
    images, expected = ({f.name: f.read_bytes() for f in r.rglob("translated/*.png")} for r in (run, reference))
    assert images == expected
    assert all(file.stat().st_mtime_ns == time for file, time in begun.items())
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert test["target/map"] == json.loads((reference / "metrics.json").read_text())["test"]["target/map"]
