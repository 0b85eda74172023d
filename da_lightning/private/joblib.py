"""Of joblib, which runs the jobs of a sweep side by side; it is not imported here, for most commands do without."""

import sys
from typing import Any


def worker_pids() -> list[int]:
    """Processes in which joblib runs jobs: it has no public list of them, and a signal has to reach them."""
    module: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
    processes = getattr(getattr(module, "_executor", None), "_processes", None) or {}
    return list(processes)
