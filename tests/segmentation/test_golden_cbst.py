"""ST and CBST against recorded thresholds and label maps, whatever portions, sizes and priors a file holds."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from da_lightning.segmentation.pseudo_labels import find_thresholds, select

FOLDER = Path(os.environ.get("DA_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
CASES = [
    pytest.param(path, *found.groups(), id=f"{path.stem}-{found[0][:-2]}")
    for path in sorted(FOLDER.glob("cbst*.npz"))
    for found in map(re.compile(r"(st|cbst)(_prior)?/p([\d.]+)/k").fullmatch, np.load(path).files)
    if found
]


@pytest.mark.parametrize(("path", "method", "prior", "portion"), CASES)
def test_thresholds_and_labels_are_the_recorded_ones(path, method, prior, portion):
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    probabilities = torch.from_numpy(golden["probabilities"])
    if prior:
        probabilities = probabilities * torch.from_numpy(golden["prior"])
    policy = {"st": "global", "cbst": "class_balanced"}[method]
    case = f"{method}{prior or ''}/p{portion}"

    found = find_thresholds(lambda: probabilities.split(1), meta["classes"], float(portion), policy)

    # The files call the probability threshold k; the paper's k is -ln of it.
    assert found.tau.double().tolist() == np.broadcast_to(golden[f"{case}/k"], meta["classes"]).tolist()
    assert torch.equal(select(probabilities, found.tau), torch.from_numpy(golden[f"{case}/pseudo"]).long())
    if (absent := meta.get("never_predicted")) is not None:
        assert found.counts[absent] == 0
