"""Signals, without a training: each in a process of its own. Real runs are in ``tests/faults/test_signals.py``."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import assert_same_training, command, run_folders, succeeded, tiny

from da_lightning.stop_message import Progress, sentence

IMPORTS = "import os, signal, subprocess, sys, time\nfrom da_lightning import stopping as s\n"
SEND = "os.kill(os.getpid(), signal.SIGTERM)\n"


def script(text: str, **options: object) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-c", IMPORTS + text],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        **options,  # type: ignore[call-overload]
    )


def check(run: subprocess.CompletedProcess[str], status: int, said: str = "") -> None:
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.count("Stopped by") == 1
    assert said in run.stderr


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 138), ("SIGUSR2", 140), ("SIGXCPU", 152)],
)
def test_each_signal_has_its_exit_status(name: str, status: int) -> None:
    # A shell's background job and nohup ignore some, and children inherit that.
    first = f"signal.signal(signal.{name}, signal.SIG_DFL)\n"
    run = script(f"{first}with s.ending():\n    os.kill(os.getpid(), signal.{name})\n    time.sleep(50)\n")
    check(run, status, f"Stopped by {name} before training began, 0 iterations are lost")
    assert "resume=auto" in run.stderr and "data.iterations_per_epoch" in run.stderr


def test_between_batches_it_stops_at_the_next_and_what_is_open_is_closed() -> None:
    run = script(
        "with s.ending():\n"
        "    try:\n"
        "        with s.deferred():\n"
        "            for batch in range(9):\n"
        f"                s.check()\n                print(batch, flush=True)\n                if batch == 2: {SEND}"
        f"                if batch == 2: {SEND}"  # to a process and to its group is the same signal
        "    finally:\n        print('closed')\n"
    )
    check(run, 143)
    assert run.stdout == "0\n1\n2\nclosed\n"


def test_what_is_deferred_ends_before_it_stops() -> None:
    run = script(f"with s.ending():\n    with s.deferred():\n        {SEND}        print('done')\n    print('never')\n")
    check(run, 143)
    assert run.stdout == "done\n"


def test_a_second_signal_ends_at_once() -> None:
    run = script(
        "s.GRACE = 1000.0\nwith s.ending():\n    with s.deferred():\n"
        f"        {SEND}        time.sleep(s.SAME + 0.3)\n        {SEND}        while True: time.sleep(0.1)\n"
    )
    check(run, 143)


@pytest.mark.slow
def test_where_no_batch_ends_it_ends_after_a_while_with_all_its_processes(tmp_path: Path) -> None:
    run = script(
        "s.GRACE = 0.5\nwith s.ending():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import subprocess, time; "
        'p = subprocess.Popen(["sleep", "100"]); print(p.pid, flush=True); time.sleep(100)\'])\n'
        f"    time.sleep(2)\n    print(child.pid, flush=True)\n    with s.deferred():\n        {SEND}"
        "        while True: time.sleep(0.1)\n"
    )
    check(run, 143)
    pids = [int(line) for line in run.stdout.splitlines()]
    assert len(pids) == 2 and not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    for _ in range(100):  # the kernel may take a moment
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.1)
    return True


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    run = script(
        "with s.ending():\n    os.kill(os.getpid(), signal.SIGHUP)\n    time.sleep(0.2)\n    print('alive')\n",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "alive\n", "")


def test_what_breaks_after_a_signal_is_its_doing_and_else_an_error() -> None:
    run = script(f"with s.ending(), s.as_stopped(), s.deferred():\n    {SEND}    raise RuntimeError('a worker')\n")
    check(run, 143)
    run = script(f"with s.ending(), s.deferred():\n    {SEND}    sys.exit(1)\n")
    check(run, 143)
    run = script("with s.ending(), s.as_stopped(), s.deferred():\n    raise RuntimeError('a worker')\n")
    assert run.returncode == 1 and "RuntimeError: a worker" in run.stderr and "Stopped" not in run.stderr
    run = script("with s.ending():\n    print('done')\n")
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")


def test_a_forked_child_is_its_parents_to_stop() -> None:
    run = script(
        "with s.ending():\n    pid = os.fork()\n    if pid == 0:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0.2)\n        os._exit(7)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "7\n", "")


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="signals are passed on as real-time signals")
@pytest.mark.parametrize("whom", ["first", "second"])
def test_the_processes_of_a_run_stop_together(whom: str, tmp_path: Path) -> None:
    second = tmp_path / "second.py"
    second.write_text(
        f"{IMPORTS}with s.ending(), s.deferred():\n    print('second', flush=True)\n"
        "    if sys.argv[1] == 'second': os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while True:\n        s.check()\n        time.sleep(0.1)\n"
    )
    run = script(
        "with s.ending(), s.deferred():\n"
        f"    ranks = [subprocess.Popen([sys.executable, {str(second)!r}, {whom!r}], stdout=subprocess.PIPE,\n"
        "                              env={**os.environ, 'LOCAL_RANK': '1', 'PYTHONPATH': os.getcwd()})]\n"
        "    s.has_ranks(lambda: ranks)\n    ranks[0].stdout.readline()\n"
        f"    if {whom!r} == 'first': {SEND}"
        "    try:\n        while True:\n            s.check()\n            time.sleep(0.1)\n"
        "    finally:\n        print(ranks[0].wait(30))\n"
    )
    check(run, 143)
    assert run.stdout == "143\n"


def test_importing_installs_nothing() -> None:
    run = script("print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.set_wakeup_fd(-1))\n")
    assert run.stdout == "True -1\n"


def test_commands_without_a_training_end_at_once() -> None:
    main = "def main(): os.kill(os.getpid(), signal.SIGINT); time.sleep(50)\n"
    # As a shell's background job, where SIGINT is ignored, too.
    for before in ("signal.SIG_DFL", "signal.SIG_IGN"):
        run = script(f"signal.signal(signal.SIGINT, {before})\n{main}s.interruptible(main)()\n")
        check(run, 130)


def test_the_sentence(tmp_path: Path) -> None:
    progress = Progress(tmp_path, "the training of cbst", 47, 600)
    assert "at iteration 47 of 600: 47 iterations are lost, since no epoch has ended" in sentence("SIGINT", progress)
    progress.saved = 40
    said = sentence("SIGTERM", progress)
    assert said.startswith(
        "Stopped by SIGTERM in the training of cbst at iteration 47 of 600: 7 iterations since the last"
    )
    assert "bit for bit from iteration 40" in said
    assert "resume=auto" in said and "data.iterations_per_epoch" in said and str(tmp_path) in said
    (tmp_path / "metrics.json").touch()
    assert "0 iterations are lost, and the scores are in" in sentence("SIGTERM", progress)


@pytest.mark.slow
def test_a_run_that_is_stopped_continues_bit_for_bit(tmp_path: Path) -> None:
    options = ["method=segmentation_source_only", *tiny("segmentation_source_only"), "data.num_workers=2"]
    options += ["+callbacks.kill={_target_: tiny_runs.Kill}", "logger=csv"]
    succeeded(command(options, tmp_path / "whole"))
    stopped = command(options, tmp_path / "run", KILL="iteration 2", KILL_SIGNAL="SIGTERM")
    check(stopped, 143, "at iteration 3 of 6: 1 iterations since the last epoch's end are lost")
    assert "GPU available" not in stopped.stdout  # Lightning's line about a trainer that only looks at options
    (run,), (whole,) = run_folders(tmp_path / "run"), run_folders(tmp_path / "whole")
    assert not (run / "metrics.json").exists() and "Stopped by SIGTERM" in (run / "log.txt").read_text()
    succeeded(command([*options, "resume=auto"], tmp_path / "run"))
    assert run_folders(tmp_path / "run") == [run]
    assert_same_training(*(folder / "checkpoints" / "last.ckpt" for folder in (run, whole)))
