"""Seconds until a command answers that needs no training, beside those of importing what a training needs.

python -m benchmarks.start_up [repeats]
"""

import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python": ["-c", "pass"],
    "import torch, lightning": ["-c", "import torch, lightning.pytorch"],
    "da_lightning.run --help": ["-m", "da_lightning.run", "--help"],
    "da_lightning.run --cfg job": ["-m", "da_lightning.run", "--cfg", "job"],
    "da_lightning.predict --help": ["-m", "da_lightning.predict", "--help"],
    "da_lightning.export --help": ["-m", "da_lightning.export", "--help"],
    "da_lightning.report --help": ["-m", "da_lightning.report", "--help"],
}
BESIDE = "import torch, lightning"


def fastest(repeats: int) -> dict[str, float]:
    """Seconds of each command, the fastest of ``repeats``; commands take turns, so that all meet the same machine."""
    seconds = dict.fromkeys(COMMANDS, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name, arguments in COMMANDS.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=True)
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds = fastest(repeats)
    table = Table(title=f"Start-up, fastest of {repeats}", title_justify="left")
    table.add_column("command")
    for column in ("seconds", f"/ {BESIDE}"):
        table.add_column(column, justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.2f}", f"{value / seconds[BESIDE]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
