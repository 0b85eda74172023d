"""What holds for all tests."""

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    # Advice about loggers, worker processes and epochs too short to log, which tiny runs call for.
    config.addinivalue_line("filterwarnings", "ignore:.*:UserWarning:lightning.*")
    # Small tensors gain nothing from threads, and sums must not depend on their number. Not in a fixture: those of
    # modules come first.
    torch.set_num_threads(1)
