"""What holds for all tests."""

import logging
import warnings

import pytest
import torch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and sums do not depend on their number."""
    torch.set_num_threads(1)
