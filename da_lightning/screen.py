"""What commands print: a reader that is gone, a full disk or a terminal without a letter ends no run."""

import io
import logging
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from da_lightning.errors import UserError
from da_lightning.files import disk_problem
from da_lightning.loading import load_tensors_alone
from da_lightning.names import show_names_safely, shown
from da_lightning.stopping import interruptible, open_streams


class _Lossy(io.FileIO):
    """A file descriptor that drops what cannot be written."""

    def write(self, content: Any) -> int:
        try:
            while (count := super().write(content)) is None:  # of a pipe that does not wait, and is full
                select.select([], [self], [], 1)
            return count
        except OSError:
            return memoryview(content).nbytes


def steady_output() -> None:
    """Let ``sys.stdout`` and ``sys.stderr`` lose what cannot be shown: results are on the disk by then.

    Log lines and warnings hold nothing that a terminal obeys. Letters that the terminal's encoding lacks are printed as
    ``\\u9053``. Streams that are no longer the process's own (a notebook's, a test's) stay as they are.
    """
    show_names_safely()
    logging.raiseExceptions = False  # a line that cannot be logged would come with a traceback
    open_streams()
    for number, name in enumerate(("stdout", "stderr"), 1):
        stream = getattr(sys, name)
        file = getattr(getattr(stream, "buffer", None), "raw", None)
        if stream is not getattr(sys, f"__{name}__") or isinstance(file, _Lossy):
            continue
        with suppress(OSError, AttributeError):
            stream.flush()
        steady = io.TextIOWrapper(
            io.BufferedWriter(_Lossy(number, "w", closefd=False)),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
        setattr(sys, name, steady)
        setattr(sys, f"__{name}__", steady)


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with ``error: <sentence>`` where the ``with`` raises what a user can mend."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except (OSError, RuntimeError) as error:
        if (problem := disk_problem(error)) is None:
            raise
        sys.exit(f"error: {shown(problem)}")


@interruptible
def run_command(
    text: str | None, command: Callable[..., object], read: Callable[[Sequence[str]], dict[str, Any]] | None = None
) -> None:
    """Run a command of the command line; what a user can mend ends the process with ``error: <sentence>``.

    Args:
        text: Its help.
        command: What it does.
        read: Makes the arguments of ``command`` from words; ``None`` reads ``name=value``.
    """
    steady_output()
    load_tensors_alone()
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(text)
        return
    if read is None:
        from da_lightning.arguments import checked_words  # slow to import

        read = partial(checked_words, command, key=command.__name__)
    with one_sentence():
        command(**read(words))
