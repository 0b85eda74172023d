"""How far two processes with a batch of two each come from one with a batch of four, in float32.

Sums are taken in another order, and Adam makes a step of the rounding of a gradient that is nearly zero. Besides, batch
norm takes its statistics from the samples of a process, and MUNIT's styles are drawn by each for itself: methods with
these differ by definition. Each difference is printed (``pytest -s``) for docs/faults.md.
"""

from pathlib import Path

import pytest
import torch
from tiny_runs import alone, command, run_folders, succeeded, tiny

SOURCE_ONLY = ("method=segmentation_source_only", *tiny("segmentation_source_only"))
FROZEN = ("network@method.network=deeplab_resnet18", "method.network.bn_stats=frozen", "method.network.pretrained=null")
RUNS = {
    "source-only, frozen batch norm": ((*(o for o in SOURCE_ONLY if "network" not in o), *FROZEN), 1e-5),
    "CycleGAN": (("method=cyclegan", *tiny("cyclegan")), 1e-2),
    "MUNIT": (("method=munit", *tiny("munit")), 1e-2),
    "AdaptSegNet": (("method=adaptsegnet", *tiny("adaptsegnet")), 1e-1),
    "source-only": (SOURCE_ONLY, 1e-1),
    "CBST": (("method=cbst", *tiny("cbst")), 1e-1),
    "re-ID, source-only": (("method=reid_source_only", *tiny("reid_source_only")), 1e-1),
    "ECN": (("method=ecn", *tiny("ecn"), *alone("ecn")), 1e-1),
}
"""Options, and a difference of a weight that would be a mistake."""


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_come_to_the_weights_of_one(name: str, tmp_path: Path) -> None:
    options, limit = RUNS[name]
    weights = []
    for devices, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(devices)
        sizes = [f"trainer.devices={devices}", f"data.batch_size={batch}", "test=false"]
        succeeded(command([*options, *sizes], folder))
        (run,) = run_folders(folder)
        weights.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    differences = {
        key: (weights[0][key] - value).abs().max().item()
        for key, value in weights[1].items()
        # Features of images in ECN's memory, and statistics, are no weights.
        if value.is_floating_point() and not ("running_" in key or key.startswith("memory."))
    }
    key = max(differences, key=lambda key: differences[key])
    print(f"{name}: {differences[key]:.1e} ({key})")
    assert differences[key] < limit
