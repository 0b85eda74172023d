"""The command ``da-lightning``, and ``python -m da_lightning``.

    da-lightning run method=cbst                                train and test; without a first word, too
    da-lightning predict checkpoint=... input=... output=...    use a trained method on files
    da-lightning export checkpoint=... output=...               write a trained network for other programs
    da-lightning report outputs/cbst/...                        one page about runs

`da-lightning run --help` lists methods, data sets and recipes; `da-lightning predict --help` and the others list their
options.
"""

import sys
from importlib import import_module

from da_lightning.names import shown
from da_lightning.screen import steady_output
from da_lightning.stopping import begin

COMMANDS = ("run", "predict", "export", "report")
"""Modules of this package with a ``main()``, which reads its options from ``sys.argv[1:]``."""


def main() -> None:
    """Do what the first word says: ``run`` where it is an option."""
    steady_output()
    arguments, name = sys.argv[1:], "run"
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return
    if arguments and arguments[0] in COMMANDS:
        # Taken out of sys.argv: Hydra reads options there, and so do the processes that Lightning starts, one a device,
        # by the same command line. Without a first word they run.
        name = sys.argv.pop(1)
    elif arguments and "=" not in arguments[0] and not arguments[0].startswith(("-", "+", "~")):
        sys.exit(
            f"error: {shown(repr(arguments[0]))} is no command of da-lightning: write {', '.join(COMMANDS[:-1])} or "
            f"{COMMANDS[-1]} first, or options of a run like method=cbst."
        )
    if name == "run":
        begin()  # before the import, which takes a second
    import_module(f"da_lightning.{name}").main()


if __name__ == "__main__":
    main()
