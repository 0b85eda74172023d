"""The wheel, installed elsewhere, finds its options, and its command trains from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import SEGMENTATION_DATA

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parent.parent


def test_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = ["wheel", str(PROJECT), "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", site, wheel], check=True
    )
    assert (site / "da_lightning" / "conf" / "config.yaml").is_file()
    assert not (site / "conf").exists()

    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "import da_lightning; print(da_lightning.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(site)

    options = ["method=segmentation_source_only", "method.max_iters=2", "logger=csv", "hydra.run.dir=run"]
    command = [sys.executable, str(site / "bin" / "da-lightning"), "run", *options, *SEGMENTATION_DATA]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "run" / "metrics.json").is_file()
