"""How far two processes with a batch of two each come from one with a batch of four, in float32.

Sums are taken in another order, and Adam makes a step of the rounding of a gradient that is nearly zero. Besides, batch
norm takes its statistics from the samples of a process, and MUNIT's styles are drawn by each for itself: methods with
these differ by definition. Each difference is printed (``pytest -s``) for docs/faults.md.
"""

from pathlib import Path

import pytest
import torch
from tiny_runs import alone, command, run_folders, succeeded, tiny

HALF = ("data.batch_size=2", "trainer.devices=2")
LARGEST = {
    "munit": 1e-2,
    "cyclegan": 1e-2,
    "adaptsegnet": 1e-2,
    "segmentation_source_only": 1e-2,
    "cbst": 1e-2,
    "reid_source_only": 1e-1,
    "ecn": 1e-1,
}
"""Differences of a weight that would be a mistake."""


@pytest.mark.parametrize("method", LARGEST)
def test_two_processes_come_to_the_weights_of_one(method: str, tmp_path: Path) -> None:
    options = [f"method={method}", *tiny(method), *alone(method), "test=false"]
    weights = []
    for name, batch in {"one": ("data.batch_size=4",), "two": HALF}.items():
        succeeded(command([*options, *batch], tmp_path / name))
        (run,) = run_folders(tmp_path / name)
        weights.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    differences = {
        name: (weights[0][name] - value).abs().max().item()
        for name, value in weights[1].items()
        if value.is_floating_point() and value.numel() and "running_" not in name
    }
    name = max(differences, key=lambda name: differences[name])
    print(f"{method}: {differences[name]:.1e} ({name})")
    assert differences[name] < LARGEST[method]
