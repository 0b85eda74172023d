"""Places that cannot be written to: a sentence before any work, from every front door."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import da_lightning.arguments  # before rights are dropped: who has none cannot import
import da_lightning.reporting.page  # noqa: F401
from da_lightning import export, predict, report
from da_lightning.errors import UserError
from da_lightning.files import DiskError, check_writable
from da_lightning.run import main


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder, with one in it that may not be written to, and the rights of a user who is not root."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own may be entered by its user alone
    folder.chmod(0o777)
    (folder / "closed").mkdir()
    (folder / "closed").chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    (folder / "closed").chmod(0o755)
    shutil.rmtree(folder)


def test_what_can_and_cannot_be_written(as_nobody):
    check_writable(as_nobody)
    check_writable(as_nobody / "new/deep")
    assert [path.name for path in as_nobody.iterdir()] == ["closed"], "nothing is left behind"
    (as_nobody / "file").touch()
    for place in ("closed", "closed/new/deep", "file", "file/in"):
        with pytest.raises(DiskError, match=f"{as_nobody}/{place}"):
            check_writable(as_nobody / place)


@pytest.mark.parametrize("place", ["closed", "closed/run", "file/run"])
@pytest.mark.parametrize("mode", [[], ["-m", "seed=0,1"]])
def test_the_run_folder(as_nobody, monkeypatch, capfd, place, mode):
    """Hydra makes it, before anything of ours."""
    (as_nobody / "file").touch()
    key = "hydra.sweep.dir" if mode else "hydra.run.dir"
    arguments = [
        *mode[:1],
        "method=segmentation_source_only",
        "data=toy_streets",
        "trainer=cpu",
        "logger=csv",
        *mode[1:],
    ]
    monkeypatch.chdir(as_nobody)
    monkeypatch.setattr(sys, "argv", ["da-lightning", *arguments, f"{key}={as_nobody}/{place}"])
    monkeypatch.setenv("DA_RUN_STAMP", "stamp")
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        GlobalHydra.instance().clear()
    printed = capfd.readouterr().err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert stop.value.code not in (0, None)
    assert "Traceback" not in printed and printed.count("error: ") == 1
    assert str(as_nobody) in printed and ("cannot be opened or made" in printed or "cannot be written" in printed)


def test_outputs_of_the_other_commands(as_nobody, monkeypatch):
    closed = as_nobody / "closed"
    with pytest.raises(UserError, match="cannot be written"):
        predict._check_output(closed / "out", overwrite=False, sources=[])
    monkeypatch.setattr("da_lightning.predict.load_method", lambda _: pytest.fail("too late"))
    with pytest.raises(UserError, match="cannot be written"):
        export.export("none.ckpt", str(closed / "net.onnx"))
    (as_nobody / "run").mkdir()
    (as_nobody / "run/metrics.json").write_text('{"test": {}}')
    monkeypatch.setattr("da_lightning.reporting.page.single", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match="cannot be written"):
        report.report([as_nobody / "run"], closed / "report.html")


def test_a_full_disk_is_seen_before_work(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        check_writable(disk / "run")
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(2**12))
        with pytest.raises(DiskError, match="No space left"):
            check_writable(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
