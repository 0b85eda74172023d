"""What cannot be shown is lost, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
from da_lightning.screen import steady_output
steady_output()
steady_output()
from da_lightning.config.sweep_table import Job, print_jobs
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
for number in range(2000):
    print("道路", number)
    logging.info("道路 %d", number)
print("道路", file=sys.stderr)
print_jobs([Job("道路", {"a": "道路"}, error="道路")], ["a"], "道路")
open(sys.argv[1], "w").close()
"""


def shown(shell: str, result: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of our output, after a look at the exit status and at what the script leaves."""
    script, status = result.with_suffix(".py"), result.with_suffix(".status")
    script.write_text(SCRIPT, encoding="utf-8")
    line = f"({sys.executable} {script} {result}; echo $? > {status}) {shell}"
    run = subprocess.run(["bash", "-c", line], env={**os.environ, **environment}, capture_output=True, timeout=300)
    run.stdout, run.stderr = (text.decode(errors="replace") for text in (run.stdout, run.stderr))
    assert status.read_text() == "0\n" and result.is_file(), run.stdout + run.stderr
    return run


@pytest.mark.parametrize(
    "shell", ["| head -1", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "> /dev/full 2> /dev/full"]
)
def test_output_that_nobody_takes(shell: str, tmp_path: Path) -> None:
    run = shown(shell, tmp_path / "result")
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": "1"},
    ],
)
def test_terminals_without_the_letters(environment: dict[str, str], tmp_path: Path) -> None:
    run = shown("", tmp_path / "result", **environment)
    assert "Traceback" not in run.stderr
    if "IOENCODING" in str(environment):
        assert r"\u9053\u8def 1999" in run.stdout and r"\u9053\u8def" in run.stderr
