"""Files are there whole or not at all."""

from pathlib import Path

import pytest
import torch
from torchvision.io import decode_image

from da_lightning.files import DiskError, part_of, whole_file, write_bytes, write_png, write_text

FULL = Path("/dev/full")


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "name.txt"
    with whole_file(file) as part:
        part.write_text("half")
        assert not file.exists() and part.suffix == ".txt" and part.name.startswith(".")
    assert file.read_text() == "half" and [p.name for p in file.parent.iterdir()] == ["name.txt"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "name.txt"
    write_text(file, "old")
    with pytest.raises(KeyError), whole_file(file) as part:
        part.write_text("new")
        raise KeyError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not FULL.exists(), reason="a full disk is simulated by Linux's /dev/full")
def test_a_full_disk_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "name.png"
    with (
        pytest.raises(DiskError, match=rf"{file}.*No space left on device.* MB"),
        whole_file(file) as part,
    ):
        part.symlink_to(FULL)
        part.write_bytes(b"x")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "name", b"x")


def test_png_and_names_of_any_bytes(tmp_path: Path) -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    write_png(image, tmp_path / f"{'long' * 60}.png")
    assert torch.equal(decode_image(str(tmp_path / f"{'long' * 60}.png")), image)
    write_text(tmp_path / "caf\udce9.txt", "caf\udce9")
    assert (tmp_path / "caf\udce9.txt").read_bytes() == b"caf\xe9"


def test_ranks_write_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    for variable in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    first = part_of(file)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert part_of(file) == first
    monkeypatch.setenv("RANK", "3")
    with whole_file(file) as part:
        assert part == part_of(file) != first
        first.write_text("the first rank's")  # is still being written
        part.write_text("this rank's")
    assert file.read_text() == "this rank's" and first.is_file()
