"""One process at a time in a run's folder."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import da_lightning
from da_lightning.config.run_lock import HeldError, give_back, held, is_held, take

HOLD = """
import os, sys, time
from pathlib import Path
from da_lightning.config.run_lock import take
take(Path(sys.argv[1]))
if len(sys.argv) > 2 and os.fork() == 0:
    time.sleep(600)  # as a loader's worker does, for a while, when its parent is killed
print("taken", flush=True)
time.sleep(600)
"""


@contextmanager
def holder(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(Path(da_lightning.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_process_has_a_folder_and_the_others_learn_which(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert is_held(tmp_path)
        with pytest.raises(HeldError) as caught, held(tmp_path):
            pass
        assert f"process {process.pid} on {socket.gethostname()}, since 2" in str(caught.value)
        assert not is_held(tmp_path / "another")


@pytest.mark.parametrize("worker", [(), ("worker",)])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, worker: tuple[str, ...]) -> None:
    with holder(tmp_path, *worker) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not is_held(tmp_path)
        with held(tmp_path):
            assert json.loads((tmp_path / ".running.json").read_text())["pid"] == os.getpid()


def test_nothing_is_left_behind_and_a_process_may_ask_twice(tmp_path: Path) -> None:
    with held(tmp_path):
        assert not take(tmp_path)
        with held(tmp_path):
            pass
        assert is_held(tmp_path)
    assert not is_held(tmp_path) and not list(tmp_path.iterdir())
    give_back(tmp_path)


def test_processes_of_one_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with held(tmp_path):
            pass


def test_what_damaged_files_say_of_a_holder_is_no_matter(tmp_path: Path) -> None:
    for text in ("", "[1]", '{"pid": "x"}', '{"pid": 123456789012345678901234567890}'):
        (tmp_path / ".running").touch()
        (tmp_path / ".running.json").write_text(text)
        with held(tmp_path):
            pass
