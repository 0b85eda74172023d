"""Killed runs with loader workers end as if undisturbed; see also training/test_rounds, test_methods and faults/."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_runs import assert_same_training, command, run_folders, succeeded, tiny

pytestmark = pytest.mark.slow

KILL = "+callbacks.kill={_target_: tiny_runs.Kill}"


@pytest.mark.parametrize("method", ["munit", "reid_source_only"])
def test_a_killed_run_ends_as_if_undisturbed(method: str, tmp_path: Path) -> None:
    options = [f"method={method}", *tiny(method)]

    def disturbed() -> None:
        workers = [*options, "data.num_workers=2", KILL]
        assert command(workers, tmp_path / "killed", KILL="iteration 3").returncode == -signal.SIGKILL
        (run,) = run_folders(tmp_path / "killed")
        assert (run / "checkpoints" / "last.ckpt").is_file()
        succeeded(command([*workers, "resume=auto"], tmp_path / "killed"))

    with ThreadPoolExecutor(2) as pool:
        killed = pool.submit(disturbed)
        succeeded(command(options, tmp_path / "whole"))
        killed.result()
    ((resumed,), (whole,)) = (run_folders(tmp_path / name) for name in ("killed", "whole"))
    assert_same_training(*(run / "checkpoints" / "last.ckpt" for run in (resumed, whole)))
