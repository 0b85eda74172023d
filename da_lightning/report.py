"""A run, several runs, or a sweep as one page to look at.

    python -m da_lightning.report outputs/cbst/toy_streets/<time>
    python -m da_lightning.report outputs/cbst/... outputs/adaptsegnet/... baseline=adaptsegnet output=report.html
    python -m da_lightning.report multirun/<time>

A folder of one run gives the page of that run; several folders, or one with several runs below it, a comparison; the
folder of a sweep, its scores along the keys that were swept. Runs whose configuration differs in the seed only are
averaged. The page is one file and needs no network.

output=       where to write it: report.html in the run's or the sweep's folder; of several, in the present folder
baseline=     what differences are to: a run's folder, its name, a method, a recipe, or the label that the page gives it
oracle=       the run that was trained on target labels, likewise
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from da_lightning.errors import UserError
from da_lightning.files import check_writable, write_text
from da_lightning.names import shown
from da_lightning.screen import run_command

log = logging.getLogger(__name__)

_OPTIONS = ("output", "baseline", "oracle")


def main() -> None:
    """Entry point of ``python -m da_lightning.report`` and of ``da-lightning report``."""
    run_command(__doc__, lambda **options: print(shown(report(**options))), _parsed)


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    folders: list[Path] = []
    options: dict[str, Any] = {}
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if not sign or Path(argument).exists():
            folders.append(Path(argument).expanduser())
        elif name in _OPTIONS:
            options[name] = value or None
        else:
            raise UserError(f"{name}= is no option: write folders of runs and {'=, '.join(_OPTIONS)}=.")
    return {"folders": folders, **options}


def leave_report(run: Path) -> None:
    """Write the page of a run that has just ended; what goes wrong is a line in its log, never the run's failure."""
    try:
        report([run])
    except Exception as error:
        log.warning("%s has no report.html: %s: %s", run, type(error).__name__, " ".join(str(error).split()))


def report(
    folders: Sequence[Path], output: str | Path | None = None, baseline: str | None = None, oracle: str | None = None
) -> Path:
    """Write the page of runs.

    Args:
        folders: Of a run, of a sweep, or with runs below them.
        output: The file to write; ``None`` puts it where ``--help`` says.
        baseline: The run, or its label, that differences are to.
        oracle: The run, or its label, that was trained on target labels.

    Returns:
        The file.

    Raises:
        UserError: A folder without runs, a broken file in one, a name of none, or an output that cannot be written.
    """
    from da_lightning.reporting.page import compared, single
    from da_lightning.reporting.runs import find_runs, is_run, is_sweep
    from da_lightning.reporting.sweep_folder import find_jobs

    if not folders:
        raise UserError("No run was given: name at least one run's folder, like outputs/<method>/<data>/<time>.")
    sweep = folders[0] if len(folders) == 1 and is_sweep(folders[0]) else None
    found = find_jobs(sweep) if sweep else [run for folder in folders for run in find_runs(folder)]
    runs = list(dict.fromkeys(found))
    is_single = len(runs) == 1 and sweep is None and is_run(folders[0])
    beside = folders[0] if is_single or sweep else Path()
    file = Path(output).expanduser() if output else beside / "report.html"
    if not file.parent.is_dir():
        raise UserError(
            f"output={file} cannot be written, since {file.parent} is no folder: make it, or choose another file."
        )
    check_writable(file.parent)
    text = single(runs[0], baseline, oracle) if is_single else compared(runs, file.parent, baseline, oracle, sweep)
    write_text(file, text)
    return file


if __name__ == "__main__":
    main()
