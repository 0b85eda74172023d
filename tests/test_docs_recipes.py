"""The code that pages print is executed as their readers would: a method, on a data set, outside this repository."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import command, run_folders, succeeded, tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)\n```", re.DOTALL)


def written(page: str, folder: Path) -> list[str]:
    """Write the files that a page shows into ``folder``; returns the words of its command."""
    blocks = dict(BLOCK.findall((ROOT / "docs" / page).read_text()))
    words = shlex.split(blocks.pop("command").replace("\\\n", " "))
    for file, content in blocks.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content + "\n")
    return words


def test_a_method_and_a_data_set_of_ones_own(tmp_path: Path) -> None:
    *start, method = written("add_method.md", tmp_path)
    trust, *program, flag, conf = start
    words = written("add_dataset.md", tmp_path)
    assert words[: len(start)] == start and program == ["python", "-m", "da_lightning.run"]
    assert method == "method=mean_teacher"
    draw = np.random.RandomState(0)
    for folder, count in (("mine", 6), ("theirs", 4), ("theirs_labelled", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.fromarray(draw.randint(0, 256, (32, 48, 3), np.uint8)).save(tmp_path / folder / f"{number}.jpg")
            if folder != "theirs":
                ids = draw.choice([0, 1, 2, 9], (32, 48)).astype(np.uint8)
                Image.fromarray(ids).save(tmp_path / folder / f"{number}_label.png")
    data = [word for word in words[len(start) :] if not word.startswith("method=")]
    small = [option for option in tiny("segmentation_source_only") if not re.match(r"data\.(\w+)\.", option)]
    sure = ("method.threshold=0.4", "method.teacher.test_with=teacher")  # of three classes, untrained
    options = [flag, conf, method, *sure, *data, *small, "data.num_workers=0", "trainer.log_every_n_steps=1"]
    succeeded(command(options, tmp_path, **dict([trust.split("=")])))
    (run,) = run_folders(tmp_path)
    with (run / "metrics.csv").open() as stream:
        losses = [float(row["train/segmenter/consistency"] or "nan") for row in csv.DictReader(stream)]
    assert 0 < np.nanmax(losses) < 2
    summary = json.loads((run / "metrics.json").read_text())
    assert (summary["method"], summary["data"]) == ("mean_teacher", "mine2theirs")
    assert {"target/miou", "target/iou/road", "target/iou/car", "target/iou/sky"} <= set(summary["test"])


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    trust, *program, flag, conf, network, method = written("add_network.md", tmp_path)
    assert program == ["python", "-m", "da_lightning.run"] and method == "method=cbst"
    light = ("network@method.network=light", "method.network.width=8")
    small = [option for option in tiny("cbst") if option not in light]
    succeeded(command([flag, conf, network, method, *small], tmp_path, **dict([trust.split("=")])))
    (run,) = run_folders(tmp_path)
    assert json.loads((run / "metrics.json").read_text())["test"]["target/miou"] >= 0
    code = (tmp_path / "my_package" / "two_stages.py").read_text()
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40


def test_their_code_is_written_as_ours_is(tmp_path: Path) -> None:
    for page in ("add_method.md", "add_dataset.md", "add_network.md"):
        written(page, tmp_path)
    for action in (["check"], ["format", "--check"]):
        settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(tmp_path)]
        done = subprocess.run([sys.executable, "-m", "ruff", *action, *settings], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
