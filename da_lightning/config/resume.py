"""``resume=auto``: finding the run that the same command left unfinished."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from da_lightning.config.changes import OPTIONS, accepted_changes, sets
from da_lightning.config.left_behind import read_overrides, read_summary
from da_lightning.config.run_lock import is_held
from da_lightning.errors import UserError
from da_lightning.private.hydra import command_line
from da_lightning.reporting.sweep_folder import never_began, without_results

log = logging.getLogger(__name__)

_FREE = ("method.max_iters",)
"""Options that may change without being named."""

_ABOUT_RESUMING = ("resume", "accept_changes")


@dataclass(frozen=True)
class Candidate:
    """A run or sweep that a command may belong to, with the overrides that began it."""

    folder: Path
    overrides: list[str]
    is_finished: bool


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
    wanted = _options(given.overrides)
    if wanted is None:  # Hydra will say
        return None
    accepted = _accepted(given.overrides)
    matching: list[tuple[bool, str]] = []
    near: list[tuple[Candidate, set[str]]] = []
    for candidate in _sweeps(root) if given.multirun else _runs(root):
        options = _options(candidate.overrides)
        if options is None:
            log.warning("%s has overrides that cannot be read: passed over.", candidate.folder)
            continue
        differing = {option for line, option in (wanted | options).items() if (line in wanted) != (line in options)}
        unnamed = {option for option in differing if option not in _FREE and not sets(option, accepted)}
        if candidate.is_finished and (differing or not given.multirun):
            continue  # its results stay as they are
        if not unnamed:
            matching.append((not differing, candidate.folder.name))
        elif all(sets(option, OPTIONS) for option in unnamed):
            near.append((candidate, unnamed))
    if matching:
        return max(matching)[1]
    # One that is running now is another's, or another job of the same script.
    for candidate, unnamed in sorted(near, key=lambda pair: pair[0].folder.name, reverse=True):
        if not is_held(candidate.folder):
            _stop(candidate, unnamed, wanted, accepted, "sweep" if given.multirun else "run")
    return None


def _stop(candidate: Candidate, unnamed: set[str], wanted: Mapping[str, str], accepted: list[str], kind: str) -> None:
    was = [line for line, option in (_options(candidate.overrides) or {}).items() if option in unnamed]
    now = [line for line, option in wanted.items() if option in unnamed]
    names = [*accepted, *(name for name in OPTIONS if any(sets(option, [name]) for option in unnamed))]
    accept = f"accept_changes=[{','.join(dict.fromkeys(names))}]"
    raise UserError(
        f"{candidate.folder} is an unfinished {kind} of this command, but with {' '.join(was) or 'the default'} where "
        f"this one has {' '.join(now) or 'the default'}: continue it by {accept}, or begin a new {kind} with "
        "resume=never."
    )


def _options(lines: Sequence[str]) -> dict[str, str] | None:
    """The option that each line sets, as Hydra records them: without its own; ``None`` if a line is no override."""
    try:
        overrides = OverridesParser.create().parse_overrides([str(line) for line in lines])
    except HydraException:
        return None
    known = {str(o.input_line): o.key_or_group for o in overrides if not o.is_hydra_override()}
    return {line: option for line, option in known.items() if option not in _ABOUT_RESUMING}


def _accepted(lines: Sequence[str]) -> list[str]:
    for override in OverridesParser.create().parse_overrides(list(lines)):
        if override.key_or_group == "accept_changes" and not override.is_sweep_override():
            return accepted_changes(override.value())
    return []


# -- where runs and sweeps lie -----------------------------------------------------------------------------------------


def _runs(root: Path) -> Iterator[Candidate]:
    for file in root.glob("outputs/*/*/*/.hydra/overrides.yaml"):
        folder = file.parent.parent
        names = [f"{stage}checkpoints/{name}.ckpt" for stage in ("", "*/") for name in ("last", "previous")]
        has_begun = any(any(folder.glob(name)) for name in names)
        if has_begun and (overrides := read_overrides(file)) is not None:
            yield Candidate(folder, overrides, read_summary(folder / "metrics.json") is not None)


def _sweeps(root: Path) -> Iterator[Candidate]:
    for place in ("*", "*/*/*"):  # multirun/<stamp>, and multirun/<method>/<data>/<stamp> of earlier versions
        for file in root.glob(f"multirun/{place}/multirun.yaml"):
            if (overrides := read_overrides(file)) is not None:
                folder = file.parent
                is_over = (folder / "sweep.csv").is_file() and not without_results(folder) and not never_began(folder)
                yield Candidate(folder, overrides, is_over)
