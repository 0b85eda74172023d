"""Signals of a scheduler or a user: a run stops at its next batch, says what is lost, and leaves no process behind.

The handlers belong to a command, which installs them with :func:`begin`; importing this does nothing. Inside
:func:`deferred`, where batches come one after another, a signal is noted and :func:`check` stops between two of them;
anywhere else the command stops where it is. A thread watches over both: after :data:`GRACE` seconds, or at a second
signal, it ends the command wherever it is, in a collective, a compiler or a download.
"""

import atexit
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import ParamSpec

from da_lightning.private.joblib import worker_pids
from da_lightning.processes import descendants, is_first_process, kill, send
from da_lightning.stop_message import Progress, sentence

P = ParamSpec("P")

GRACE = 25.0
"""Seconds from a signal to the end in any case."""

PARTING = 5.0
"""Seconds that the other processes of a run have to end by themselves, of those."""

SAME = 0.5
"""Seconds within which a signal is the same one, sent to a process and to its group."""

# After the first two: a terminal that closes, and the warnings of schedulers.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))  # Windows has the first two

# The processes of a run pass a signal on as another, so that none takes it for a second one.
_RELAYS = range(signal.SIGRTMIN + 5, signal.SIGRTMAX) if hasattr(signal, "SIGRTMIN") else ()
_RELAYED: dict[int, int] = dict(zip(SIGNALS, _RELAYS, strict=False))
_ORIGINS = {relay: int(s) for s, relay in _RELAYED.items()}

_MAIN = "DA_MAIN_PID"  # of the process that started this one, if it is of the same command


class Stopped(SystemExit):
    """A signal has ended the command; its exit status is 128 and the signal's number."""


@dataclass
class _State:
    pid: int = 0  # of the process whose handlers these are
    parent: int | None = None
    signum: int | None = None
    at: float = 0.0
    is_seen: bool = False
    is_relayed: bool = False
    is_raised: bool = False
    is_said: bool = False
    depth: int = 0
    ranks: Callable[[], Sequence[subprocess.Popen]] = tuple
    progress: Progress = field(default_factory=Progress)


_state = _State()
_lock = threading.Lock()


# -- what commands and runs call ---------------------------------------------------------------------------------------


def begin() -> None:
    """Install the handlers for the rest of this process; a signal that is ignored (``nohup``) stays ignored."""
    global _state
    if _state.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
        return
    is_one_of_several = os.environ.get(_MAIN) == str(os.getppid())
    _state = _State(os.getpid(), os.getppid() if is_one_of_several else None)
    os.environ[_MAIN] = str(os.getpid())
    open_streams()  # or what is printed would go to the pipe below, and be signals
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (*SIGNALS, *_ORIGINS):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    # Written to at once, also while the main thread is inside of C code and no handler can run.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="signals").start()
    os.register_at_fork(after_in_child=_forget)
    atexit.register(_say)


def open_streams() -> None:
    """Open those of the first three files that are closed: else the next file to be opened is what C code prints to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def is_stopping() -> bool:
    """Whether a signal has come."""
    return _state.signum is not None and _state.pid == os.getpid()


def check() -> None:
    """Stop here if a signal has come.

    Raises:
        Stopped: It has.
    """
    if is_stopping():
        _state.is_raised = True
        raise Stopped(_status())


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal stops the command at the next :func:`check` alone, and at the end in any case."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
    check()


@contextmanager
def ending() -> Iterator[None]:
    """Around a command: whatever ends it after a signal, it ends with the sentence and the signal's exit status."""
    begin()
    try:
        yield
    except BaseException:
        if not is_stopping():
            raise
    if is_stopping():
        _part()
        _say()
        # What others have left to do at the end, but not what Python does there, which takes torch seconds.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(_status())


@contextmanager
def as_stopped() -> Iterator[None]:
    """Around a run: what breaks after a signal (a worker that got it, too; a peer that is gone) is its doing.

    Raises:
        Stopped: In place of any exception.
    """
    try:
        yield
    except Exception:
        if is_stopping():
            raise Stopped(_status()) from None
        raise


def attend(progress: Progress) -> None:
    """Let the sentence be about this run from now on."""
    _state.progress = progress


def has_ranks(processes: Callable[[], Sequence[subprocess.Popen]]) -> None:
    """Let signals reach the run's other processes, which may be started later."""
    _state.ranks = processes


def interruptible(command: Callable[P, None]) -> Callable[P, None]:
    """For commands that hold nothing that resumes: Ctrl-C is a sentence and exit status 130."""

    @wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
        with suppress(ValueError):  # not the main thread
            # A shell's background job inherits an ignored SIGINT, and `kill -INT` would be lost.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            print("\nStopped by SIGINT: what has been written so far is whole.", file=sys.stderr)
            sys.exit(130)

    return wrapped


# -- signals -----------------------------------------------------------------------------------------------------------


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _state.pid != os.getpid():
        return
    if _state.signum is None:
        _state.signum, _state.at = _ORIGINS.get(number, number), time.monotonic()
    # Workers that got the signal, too, end: torch would say so in the middle of whatever is done here.
    with suppress(AttributeError, ValueError):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.unraisablehook = lambda _: None
    # A sweep's jobs side by side are other processes: they stop first, and the launcher with them.
    if _state.depth == 0 and not _state.is_raised and not any(map(_would_stop, worker_pids())):
        check()


def _watch(reader: int) -> None:
    while True:
        left = max(0.0, _state.at + GRACE - time.monotonic()) if _state.is_seen else None
        ready, _, _ = select.select([reader], [], [], left)
        if not ready:
            _end_now()
        for number in os.read(reader, 64):
            if number in SIGNALS or number in _ORIGINS:
                _arrived(number)


def _arrived(number: int) -> None:
    signum, is_relayed = _ORIGINS.get(number, number), number in _ORIGINS
    if not _state.is_seen:
        if _state.signum is None:
            _state.signum, _state.at = signum, time.monotonic()
        _state.is_seen = True
        _relay()
        if _state.depth and is_first_process():
            _write(f"{_name()}: stopping at the next batch; a second signal ends at once.\n")
    elif not is_relayed and time.monotonic() - _state.at > SAME:
        _end_now()


def _relay() -> None:
    """Let the other processes of the command know, whichever got the signal; once."""
    with _lock:
        if _state.is_relayed or _state.signum is None:
            return
        _state.is_relayed = True
    relay = _RELAYED.get(_state.signum, signal.SIGTERM)
    if _RELAYED and _state.parent is not None:
        send(_state.parent, relay)
    for process in list(_state.ranks()):
        # One that is still starting has no handlers yet, and nothing to lose.
        send(process.pid, relay if _would_stop(process.pid) else signal.SIGTERM)
    for pid in filter(_would_stop, worker_pids()):
        send(pid, relay)


def _would_stop(pid: int) -> bool:
    """Whether that process has our handlers, as Linux says."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        mask = int(next(line for line in lines if line.startswith("SigCgt:")).split()[1], 16)
        return all(mask >> (number - 1) & 1 for number in _ORIGINS)
    return False


def _forget() -> None:
    """In a forked child, a loader's worker: it is its parent that stops, and ends it."""
    signal.set_wakeup_fd(-1)
    for number in (*SIGNALS, *_ORIGINS):
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


# -- the end -----------------------------------------------------------------------------------------------------------


def _status() -> int:
    return 128 + int(_state.signum or 0)


def _name() -> str:
    return signal.Signals(_state.signum).name if _state.signum else "no signal"


def _part() -> None:
    """Give the other processes a moment to end by themselves, and no more."""
    _relay()  # where the main thread is faster than the one that watches
    until = time.monotonic() + PARTING
    for process in _state.ranks():
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
    kill([*_running_ranks(), *worker_pids()])


def _running_ranks() -> list[int]:
    return [process.pid for process in _state.ranks() if process.poll() is None]


def _end_now() -> None:
    with suppress(BaseException):
        _say()
    with suppress(BaseException):
        kill([*descendants(os.getpid()), *_running_ranks()])
    os._exit(_status())


def _say() -> None:
    """The sentence, once, by the first process of a run."""
    with _lock:
        if not is_stopping() or _state.is_said:
            return
        _state.is_said = True
    if not is_first_process():
        return
    text = sentence(_name(), _state.progress)
    _write(f"{text}\n")
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):  # log.txt
            with suppress(Exception):
                handler.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))


def _write(text: str) -> None:
    with suppress(OSError):
        os.write(2, text.encode())
