"""What holds for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from da_lightning import stopping
from da_lightning.config.trust import own_packages


def pytest_configure(config: pytest.Config) -> None:
    # Advice about loggers, worker processes and epochs too short to log, which tiny runs call for.
    config.addinivalue_line("filterwarnings", "ignore:.*:UserWarning:lightning.*")
    # Small tensors gain nothing from threads, and sums must not depend on their number. Not in a fixture: those of
    # modules come first.
    torch.set_num_threads(1)
    # Tests that call the command in this process leave its signals to pytest.
    stopping._state.pid = os.getpid()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Faults take half an hour: only where the command names them (``make test-faults``)."""
    is_named = any("faults" in str(argument) for argument in config.invocation_params.args)
    return True if collection_path == Path(__file__).parent / "faults" and not is_named else None


@pytest.fixture(autouse=True)
def _trust_read_again() -> None:
    """A command reads ``DA_TRUSTED_PACKAGES`` once; each test is a command of its own."""
    own_packages.cache_clear()


@pytest.fixture
def _settings_restored() -> Iterator[None]:
    """For tests that run the whole command in this process."""
    yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")
