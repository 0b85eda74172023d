"""Private parts of joblib, which can run the jobs of a sweep in parallel. Most commands do not need it imported."""

import sys
from typing import Any


def worker_pids() -> list[int]:
    """Processes in which joblib runs jobs: it has no public list of them, and a signal has to reach them."""
    module: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
    processes = getattr(getattr(module, "_executor", None), "_processes", None) or {}
    return list(processes)
