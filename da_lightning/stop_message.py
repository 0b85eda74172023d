"""What a run that a signal has stopped says at its end: how far it was, what is lost, and how it continues."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Progress:
    """How far a run has come, for the sentence at its end.

    Attributes:
        folder: Of the run.
        doing: What it does, e.g. ``training``; ``None`` before it has begun.
        done, total: Iterations.
        saved: Iterations of the checkpoint that resumes; ``None`` where there is none.
        look: Brings the others up to date.
    """

    folder: Path | None = None
    doing: str | None = None
    done: int = 0
    total: int = 0
    saved: int | None = None
    look: Callable[[], None] = lambda: None


def sentence(name: str, progress: Progress) -> str:
    """What is lost, and how to continue."""
    with suppress(OSError, AttributeError):
        progress.look()
    how = "the same command with resume=auto"
    shorter = "a smaller data.iterations_per_epoch loses less"
    if progress.doing is None:
        return (
            f"Stopped by {name} before training began, 0 iterations are lost: {how} begins or continues it, and an "
            "epoch's end, every data.iterations_per_epoch iterations, is what it continues from."
        )
    where = f"Stopped by {name} in {progress.doing} at iteration {progress.done} of {progress.total}"
    if progress.folder is not None and (progress.folder / "metrics.json").is_file():
        ended = f"{where}: 0 iterations are lost, and the scores are in {progress.folder / 'metrics.json'}"
        is_stage = "/" in progress.doing  # the training of spgan/translator
        return f"{ended}; {how} continues with what comes after this stage." if is_stage else f"{ended}."
    if progress.saved is None:
        return (
            f"{where}: {progress.done} iterations are lost, since no epoch has ended yet; {how} begins again, and "
            f"{shorter}."
        )
    return (
        f"{where}: {progress.done - progress.saved} iterations since the last epoch's end are lost; {how} continues "
        f"bit for bit from iteration {progress.saved} ({progress.folder}/checkpoints), and {shorter}."
    )
