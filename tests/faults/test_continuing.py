"""Real commands that continue: several at once, and files that would run code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same_training, command, run_folders, started, succeeded, tiny
from torchvision.io import write_png

RUN = (
    "method=segmentation_source_only",
    *tiny("segmentation_source_only"),
    "+callbacks.kill={_target_: tiny_runs.Kill}",
)
SWEEP = ("-m", *RUN, "seed=0,1")


def killed(folder: Path, arguments: Sequence[str] = RUN, kill: str = "iteration 5") -> Path:
    assert command(arguments, folder, KILL=kill).returncode == -9
    return run_folders(folder)[-1]


@pytest.mark.parametrize("arguments", [RUN, SWEEP], ids=["run", "sweep"])
def test_of_commands_that_continue_one_run_one_wins(tmp_path: Path, arguments: Sequence[str]) -> None:
    folder = killed(tmp_path / "many", arguments)
    processes = [started([*arguments, "resume=auto"], tmp_path / "many") for _ in range(3)]
    ends = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert sorted(code for *_, code in ends) == [0, 1, 1], ends
    for _, errors, code in ends:
        assert code == 0 or ("is in use by process" in errors and "Traceback" not in errors)
    assert len(run_folders(tmp_path / "many")) == (1 if arguments is RUN else 2)
    assert (folder / "metrics.json").is_file() and not list((tmp_path / "many").rglob(".running*"))
    assert not list((tmp_path / "many").rglob("error.txt"))


@pytest.mark.parametrize("moment", ["half */previous.ckpt 2", "half */last.ckpt 3"])
def test_a_kill_while_checkpoints_change_places(tmp_path: Path, moment: str) -> None:
    folder = killed(tmp_path / "killed", kill=moment)
    succeeded(command([*RUN, "resume=auto"], tmp_path / "killed"))
    succeeded(command(RUN, tmp_path / "whole"))
    (whole,) = run_folders(tmp_path / "whole")
    assert_same_training(folder / "checkpoints" / "last.ckpt", whole / "checkpoints" / "last.ckpt")
    assert not list(folder.rglob(".part-*"))


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_no_command_runs_code_from_a_file(tmp_path: Path) -> None:
    mark, bomb = tmp_path / "sprung", tmp_path / "bomb.ckpt"
    unsafe = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    folder = killed(tmp_path / "run")
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({"state_dict": Bomb(mark)}, bomb)
    for state in content["callbacks"].values():  # a path to it where a run would look
        state |= {key: str(bomb) for key in state if key.endswith("path")}
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    shutil.copy(bomb, folder / "checkpoints" / "source_only.ckpt")
    run = command([*RUN, "resume=auto"], tmp_path / "run", **unsafe)
    assert run.returncode == 1 and "source_only.ckpt holds more than tensors" in run.stderr
    (folder / "checkpoints" / "source_only.ckpt").unlink()
    run = succeeded(command([*RUN, "resume=auto"], tmp_path / "run", **unsafe))
    assert "which is outside its run's folder: not followed" in run.stdout + run.stderr
    assert json.loads((folder / "metrics.json").read_text())["test"]
    for option in (f"ckpt_path={bomb}", f"method.init_from={bomb}"):
        assert command([*RUN, option], tmp_path / "other", **unsafe).returncode == 1
    write_png(torch.zeros(3, 32, 48, dtype=torch.uint8), str(tmp_path / "image.png"))
    for words in (("predict", f"input={tmp_path}/image.png", f"output={tmp_path}/out"), ("export", "output=x.pt2")):
        line = [sys.executable, "-m", f"da_lightning.{words[0]}", f"checkpoint={bomb}", *words[1:]]
        refused = subprocess.run(line, cwd=tmp_path, env={**os.environ, **unsafe}, capture_output=True, text=True)
        assert refused.returncode == 1 and "holds more than tensors" in refused.stderr
    assert bomb.is_file() and not mark.exists()
