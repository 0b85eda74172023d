"""Small disks that fill up while a run writes: a sentence names them, and a resumed run ends as an undisturbed one."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_runs import assert_same_training, command, run_folders, succeeded, tiny

from da_lightning.files import damaged_images

NO_SPACE = "No space left on device"
FILL = "+callbacks.fill={_target_: tiny_runs.FillDisk}"
CBST = (
    *("method=cbst", *tiny("cbst"), "method.max_iters=8", "method.source_iters=4", "data.target.count=60"),
    *("method.spatial_prior=true", "resume=auto", FILL),
)
"""Labels of a round take 240 kB, and are made after four and six iterations."""


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"small disks cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free(folder: Path) -> None:
    """Free what the run's callback has filled."""
    for ballast in folder.rglob("ballast"):
        ballast.unlink()


def refused(arguments: Sequence[str], folder: Path, **environment: str) -> str:
    """What a run says that a full disk ends."""
    run = command(arguments, folder, **environment)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    sentence = run.stderr[run.stderr.index("error: ") :]
    assert NO_SPACE in sentence and str(folder) in sentence and "MB are free" in sentence
    assert not list(folder.rglob("metrics.json")), "it counts as finished"
    return sentence


@pytest.mark.parametrize("size", ["4k", "40k", "200k"])
def test_a_run_that_cannot_begin_says_so(size: str, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", size) as folder:
        refused(["method=segmentation_source_only", *tiny("segmentation_source_only")], folder)
        assert not [file for file in folder.rglob("*.yaml") if not file.stat().st_size], "half a file"


@pytest.mark.parametrize(("iteration", "what"), [(3, "checkpoints/source_only.ckpt"), (5, "pseudo_labels/round_2")])
def test_labels_that_a_disk_does_not_take(iteration: int, what: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    succeeded(command(CBST, whole))
    with disk(tmp_path / "disk", "64m") as folder:
        assert what in refused(CBST, folder, FILL=f"{iteration} 100")
        for labels in folder.rglob("pseudo_labels/round_*"):
            assert len(list(labels.glob("*.png"))) == 60 and not damaged_images(labels.glob("*.png"))
        free(folder)
        succeeded(command(CBST, folder))
        (run,), (reference,) = run_folders(folder), run_folders(whole)
        assert_same_training(*(r / "checkpoints" / "last.ckpt" for r in (run, reference)))
        scores = [json.loads((r / "metrics.json").read_text())["test"] for r in (run, reference)]
        assert scores[0] == scores[1]


def test_translations_that_a_disk_does_not_take(tmp_path: Path) -> None:
    options = ["method=spgan", *tiny("spgan"), "resume=auto", FILL]
    whole = tmp_path / "whole"
    succeeded(command(options, whole))
    (reference,) = run_folders(whole)
    images = {file.name: file.read_bytes() for file in reference.rglob("translated/**/*.png")}
    with disk(tmp_path / "disk", "256m") as folder:
        assert "translated/" in refused(options, folder, FILL="end 20")
        found = list(folder.rglob("translated/**/[!.]*.png"))
        assert len(found) < len(images) and not damaged_images(found)
        free(folder)
        succeeded(command(options, folder))
        run = run_folders(folder)[-1]
        assert {file.name: file.read_bytes() for file in run.rglob("translated/**/*.png")} == images
        assert_same_training(*(r / "checkpoints" / "last.ckpt" for r in (run, reference)))


def test_empty_translations_of_a_finished_stage_heal(tmp_path: Path) -> None:
    """What earlier versions left on a full disk."""
    options = ["method=spgan", *tiny("spgan"), "resume=auto"]
    whole = tmp_path / "whole"
    succeeded(command(options, whole))
    (run,) = run_folders(whole)
    images = {file: file.read_bytes() for file in run.rglob("translated/**/*.png")}
    for file in list(images)[::2]:
        file.write_bytes(b"")
    (run / "metrics.json").unlink()
    again = succeeded(command(options, whole))
    assert "These are made again" in again.stdout
    assert {file: file.read_bytes() for file in images} == images


def test_damaged_labels_are_a_sentence(tmp_path: Path) -> None:
    kill = "+callbacks.kill={_target_: tiny_runs.Kill}"
    options = ["method=cbst", *tiny("cbst"), "method.iters_per_round=4", "method.max_iters=10", "resume=auto", kill]
    assert command(options, tmp_path, KILL="iteration 5").returncode != 0
    (run,) = run_folders(tmp_path)
    first, second, *_ = sorted((run / "pseudo_labels" / "round_1").glob("*.png"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:40])
    again = command(options, tmp_path)
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert f"1 of its 6 pseudo labels are not in {run / 'pseudo_labels' / 'round_1'}" in again.stderr
    shutil.rmtree(run / "pseudo_labels")
    assert "and are gone" in command(options, tmp_path).stderr
