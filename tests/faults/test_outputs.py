"""Loggers that fail and screens that take nothing, through the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import command, run_folders, succeeded, tiny

import da_lightning
from da_lightning.config import CONF_DIR

RUN = ["method=segmentation_source_only", *tiny("segmentation_source_only"), "test=true"]
CLASSES = (CONF_DIR / "data" / "classes" / "toy_streets.yaml").read_text(encoding="utf-8").replace("road:", "道路:")


def finished(folder: Path) -> dict:
    (run,) = run_folders(folder)
    assert (run / "report.html").is_file() and (run / "metrics.csv").is_file()
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]


def with_logger(*options: str) -> list[str]:
    return [*(word for word in RUN if not word.startswith("logger=")), *options]


@pytest.mark.parametrize("shell", ["| head -1", ">&- 2>&-", "> /dev/full 2>&1"])
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_class_of_other_letters_on_any_screen(shell: str, encoding: str, tmp_path: Path) -> None:
    classes = tmp_path / "conf" / "data" / "classes" / "mine.yaml"
    classes.parent.mkdir(parents=True)
    classes.write_text(CLASSES, encoding="utf-8")
    words = [*RUN, "data/classes=mine"]
    (tmp_path / "runs").mkdir()
    script = f'cd {tmp_path}/runs; ("$@"; echo $? > {tmp_path}/status) {shell}'
    own = [sys.executable, "-m", "da_lightning.run", "--config-dir", str(tmp_path / "conf"), *words]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DA_", "WANDB_"))},
        **{"PYTHONPATH": str(Path(da_lightning.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        **{"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    }
    run = subprocess.run(["bash", "-c", script, "bash", *own], env=environment, capture_output=True, timeout=300)
    assert (tmp_path / "status").read_text() == "0\n", run.stderr.decode(errors="replace")
    assert "target/iou/道路" in finished(tmp_path / "runs")
    assert b"Traceback" not in run.stderr and b"Logging error" not in run.stderr


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "cannot begin a run"),  # nobody listens
        ({"WANDB_API_KEY": "short"}, "cannot begin a run"),
        ({}, "there is no API key"),
    ],
)
def test_a_network_that_is_not_there(environment: dict[str, str], why: str, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc")}
    run = succeeded(
        command(with_logger("logger=wandb", "logger.offline=false"), tmp_path / "runs", **home, **environment)
    )
    warnings = [line for line in run.stdout.splitlines() if "records nothing further" in line]
    assert len(warnings) == 1 and why in warnings[0]
    finished(tmp_path / "runs")


@pytest.mark.parametrize("where", ["wandb", "tensorboard"])
def test_a_folder_that_is_a_file(where: str, tmp_path: Path) -> None:
    if where == "tensorboard":
        pytest.importorskip("tensorboard")
    place = f"hydra.run.dir={tmp_path}/outputs/here/is/it"
    folder = tmp_path / "outputs" / "here" / "is" / "it"
    folder.mkdir(parents=True)
    (folder / where).touch()
    succeeded(command(with_logger(f"logger={where}", place), tmp_path))
    finished(tmp_path)


def test_lines_of_progress_are_in_the_log(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith("callbacks.progress")]
    run = succeeded(command(words, tmp_path))
    (folder,) = run_folders(tmp_path)
    for text in (run.stdout, (folder / "log.txt").read_text(encoding="utf-8")):
        assert "Iteration 1 of 6: segmenter/segmentation" in text and "Iteration 6 of 6" in text
    for silent in ("trainer.enable_progress_bar=false", "callbacks.progress=null"):
        assert "Iteration" not in succeeded(command([*words, silent], tmp_path)).stdout
