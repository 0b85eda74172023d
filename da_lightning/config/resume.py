"""``resume=auto``: finding the run that the same command left unfinished."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from da_lightning.config.changes import OPTIONS, accepted_changes, sets
from da_lightning.config.left_behind import read_overrides, read_summary
from da_lightning.config.run_lock import is_held
from da_lightning.errors import UserError
from da_lightning.private.hydra import command_line, parsed
from da_lightning.reporting.sweep_folder import never_began, without_results

log = logging.getLogger(__name__)

_FREE = ("method.max_iters",)
"""Options that may change without being named."""

_ABOUT_RESUMING = ("resume", "accept_changes")


def unfinished_stamp(arguments: Sequence[str], root: Path = Path()) -> str | None:
    """Stamp of the newest run, or sweep, that these command-line arguments began; ``None`` begins a new one.

    A run counts as unfinished while it, or a stage of it, has a checkpoint and it has no ``metrics.json``. A sweep is
    taken up again in any case: its finished jobs are skipped. ``method.max_iters`` and what ``accept_changes`` names
    may differ from the one that is taken up.

    Raises:
        UserError: An unfinished run differs in nothing but what ``accept_changes`` could name, and does not.
    """
    if "resume=auto" not in arguments:
        return None
    given = command_line(arguments)
    overrides = parsed(given.overrides)
    if overrides is None:  # Hydra will say
        return None
    wanted, accepted = _options(overrides), _accepted(overrides)
    matching: list[tuple[bool, str]] = []
    near: list[tuple[Path, dict[str, str], set[str]]] = []
    for folder, lines, is_finished in _sweeps(root) if given.multirun else _runs(root):
        recorded = parsed(lines)
        if recorded is None:
            log.warning("%s has overrides that cannot be read: passed over.", folder)
            continue
        options = _options(recorded)
        differing = {option for line, option in (wanted | options).items() if (line in wanted) != (line in options)}
        unnamed = {option for option in differing if option not in _FREE and not sets(option, accepted)}
        if is_finished and (differing or not given.multirun):
            continue  # its results stay as they are
        if not unnamed:
            matching.append((not differing, folder.name))
        elif all(sets(option, OPTIONS) for option in unnamed):
            near.append((folder, options, unnamed))
    if matching:
        return max(matching)[1]
    # One that is running now is another's, or another job of the same script.
    for folder, options, unnamed in sorted(near, key=lambda found: found[0].name, reverse=True):
        if is_held(folder):
            continue
        was, now = (
            " ".join(line for line, option in its.items() if option in unnamed) or "the default"
            for its in (options, wanted)
        )
        names = [*accepted, *(name for name in OPTIONS if any(sets(option, [name]) for option in unnamed))]
        kind = "sweep" if given.multirun else "run"
        raise UserError(
            f"{folder} is an unfinished {kind} of this command, but with {was} where this one has {now}: continue it "
            f"by accept_changes=[{','.join(dict.fromkeys(names))}], or begin a new {kind} with resume=never."
        )
    return None


def _options(overrides: Sequence[Override]) -> dict[str, str]:
    """The option that each line sets, as Hydra records them: without its own."""
    known = {str(o.input_line): o.key_or_group for o in overrides if not o.is_hydra_override()}
    return {line: option for line, option in known.items() if option not in _ABOUT_RESUMING}


def _accepted(overrides: Sequence[Override]) -> list[str]:
    for override in overrides:
        if override.key_or_group == "accept_changes" and not override.is_sweep_override():
            return accepted_changes(override.value())
    return []


# -- where runs and sweeps lie -----------------------------------------------------------------------------------------


def _runs(root: Path) -> Iterator[tuple[Path, list[str], bool]]:
    """Folders, the overrides that began them, and whether they are finished."""
    for file in root.glob("outputs/*/*/*/.hydra/overrides.yaml"):
        folder = file.parent.parent
        names = [f"{stage}checkpoints/{name}.ckpt" for stage in ("", "*/") for name in ("last", "previous")]
        has_begun = any(any(folder.glob(name)) for name in names)
        if has_begun and (overrides := read_overrides(file)) is not None:
            yield folder, overrides, read_summary(folder / "metrics.json") is not None


def _sweeps(root: Path) -> Iterator[tuple[Path, list[str], bool]]:
    """The same of sweeps."""
    for place in ("*", "*/*/*"):  # multirun/<stamp>, and multirun/<method>/<data>/<stamp> of earlier versions
        for file in root.glob(f"multirun/{place}/multirun.yaml"):
            if (overrides := read_overrides(file)) is not None:
                folder = file.parent
                is_over = (folder / "sweep.csv").is_file() and not without_results(folder) and not never_began(folder)
                yield folder, overrides, is_over
