"""What holds for all tests."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    # Advice about loggers, worker processes and epochs too short to log, which tiny runs call for.
    config.addinivalue_line("filterwarnings", "ignore:.*:UserWarning:lightning.*")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and sums do not depend on their number."""
    torch.set_num_threads(1)
