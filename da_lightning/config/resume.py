"""``resume=auto``: finding the run that the same command left unfinished."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from da_lightning.config.run_lock import is_held
from da_lightning.errors import UserError
from da_lightning.private.hydra import command_line, parsed
from da_lightning.reporting import runs
from da_lightning.reporting.sweep_folder import never_began, without_results

log = logging.getLogger(__name__)

OPTIONS = {
    "seed": ("seed",),
    "source": ("data.source", "data.root", "data.files", "data.cameras"),
    "target": ("data.target", "data.root", "data.files", "data.cameras"),
    "batch_size": ("data.batch_size", "data.target_batch_size"),
    "devices": ("trainer", "trainer.devices", "trainer.num_nodes", "trainer.accelerator"),
    "epoch_length": ("data.iterations_per_epoch", "data.mode", "trainer.limit_train_batches"),
    "accumulate": ("method.accumulate",),
    "method": (),
}
"""What may change between a run and its continuation: by name, the options that set it. Those below an option belong
to it, as ``data.source.root`` to ``data.source``."""

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
    earlier = root.glob("multirun/*/*/*/multirun.yaml")  # multirun/<method>/<data>/<stamp> of earlier versions
    for file in (*root.glob("multirun/*/multirun.yaml"), *earlier):
        if (overrides := read_overrides(file)) is not None:
            folder = file.parent
            is_over = (folder / "sweep.csv").is_file() and not without_results(folder) and not never_began(folder)
            yield folder, overrides, is_over


# -- what may change ---------------------------------------------------------------------------------------------------


def accepted_changes(value: Any) -> list[str]:
    """The names in ``accept_changes=``, a list, one name, or ``null``; an option stands for the name that it sets.

    Raises:
        UserError: A name that is none of :data:`OPTIONS`.
    """
    words = [] if value is None else [value] if isinstance(value, str) else list(value)
    names = []
    for word in map(str, words):
        known = [word] if word in OPTIONS else [name for name in OPTIONS if word and sets(word, [name])]
        if not known:
            raise UserError(
                f"accept_changes names {word}, which is nothing that a run records: give some of "
                f"{', '.join(OPTIONS)}, as in accept_changes=[seed,devices]."
            )
        names += [name for name in known if name not in names]
    return names


def sets(option: str, names: Collection[str]) -> bool:
    """Whether ``option`` (``data.source.root``) is one of those that set something of these ``names``."""
    options = [own for name in names for own in OPTIONS[name]]
    return any(option == own or (own != "trainer" and option.startswith(f"{own}.")) for own in options)


# -- small files of earlier runs, of which a damaged one must not hide the others --------------------------------------


def read_overrides(file: Path) -> list[str] | None:
    """The overrides that Hydra recorded in a run's ``overrides.yaml`` or a sweep's ``multirun.yaml``.

    Returns:
        ``None``, after a warning that names the file, where it cannot be read.
    """
    content = None
    with suppress(UserError, OSError):
        content = runs.read_yaml(file)
    if file.name == "multirun.yaml":
        for key in ("hydra", "overrides", "task"):
            content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, list) and all(isinstance(word, str | int | float) for word in content):
        return [str(word) for word in content]
    log.warning("%s is damaged, so the run that it belongs to is passed over.", file)
    return None


def read_summary(file: Path) -> dict[str, Any] | None:
    """What a finished run has left in ``metrics.json``.

    Returns:
        ``None`` where there is no such file, or, after a warning that names it, one that is not whole.
    """
    if not file.is_file():
        return None
    with suppress(UserError, OSError):
        summary = runs.read_summary(file)
        if "test" in summary:
            return summary
    log.warning("%s is damaged: the run counts as unfinished.", file)
    return None
