"""Pseudo labels that are missing or damaged when a round is resumed, or that a disk does not take."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import assert_same_training, built, trainer

from da_lightning import files
from da_lightning.errors import CheckpointError
from da_lightning.files import DiskError

pytestmark = pytest.mark.slow

OPTIONS = ("method.source_iters=2", "method.iters_per_round=4", "method.rounds=2", "method.max_iters=10")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Epochs of two iterations: one on the source, two in each of two rounds."""
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).fit(*built("cbst", *OPTIONS))
    return folder


def resumed(run: Path, epoch: int) -> None:
    checkpoint = run / "checkpoints" / f"epoch={epoch}.ckpt"
    trainer(run).fit(*built("cbst", *OPTIONS, seed=1), ckpt_path=checkpoint, weights_only=True)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def grow(file: Path) -> None:
    Image.new("L", (96, 64)).save(file)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "2 of its 6 pseudo labels are not in"),
    "empty": (lambda file: file.write_bytes(b""), "2 of its 6 pseudo labels .* are damaged"),
    "cut": (cut, "2 of its 6 pseudo labels .* are damaged"),
    "flipped": (flip, "2 of its 6 pseudo labels .* are damaged"),
    "zeros": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "2 of its 6 pseudo labels .* are damaged"),
    "text": (lambda file: file.write_text("oops"), "2 of its 6 pseudo labels .* are damaged"),
    "renamed": (lambda file: file.rename(file.with_name(f"x{file.name}")), "2 of its 6 pseudo labels are not in"),
    "size": (grow, "is 96x64 of mode L, where a pseudo label of this run is 48x32 of mode L"),
    "colours": (lambda file: Image.new("RGB", (48, 32)).save(file), "is 48x32 of mode RGB"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_inside_a_round_they_are_named(damage: str, whole: Path, tmp_path: Path) -> None:
    change, message = DAMAGES[damage]
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in sorted((run / "pseudo_labels" / "round_1").glob("*.png"))[:2]:
        change(file)
    with pytest.raises(CheckpointError, match=rf"round 1\b.*{message}.*method\.init_from="):
        resumed(run, 1)


def test_the_whole_folder_may_be_gone(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "pseudo_labels" / "round_2")
    with pytest.raises(CheckpointError, match="round_2 and are gone"):
        resumed(run, 3)


@pytest.mark.parametrize(("damage", "epoch", "round_"), [("missing", 0, 1), ("size", 0, 1), ("cut", 2, 2)])
def test_at_the_start_of_a_round_they_are_made_again(
    damage: str, epoch: int, round_: int, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    labels = run / "pseudo_labels" / f"round_{round_}"
    expected = {file.name: file.read_bytes() for file in labels.glob("*.png")}
    for file in sorted(labels.glob("*.png"))[1:3]:
        DAMAGES[damage][0](file)
    resumed(run, epoch)
    assert {file.name: file.read_bytes() for file in labels.glob("*.png")} == expected
    assert_same_training(*(folder / "checkpoints" / "epoch=4.ckpt" for folder in (run, whole)))


@pytest.mark.parametrize("at", [4, 9])
def test_a_disk_that_is_full_ends_the_round_and_resuming_ends_alike(
    at: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, sync = [0], files._sync

    def full(file: Path) -> None:
        calls[0] += file.parent.suffix == ".partial"
        if calls[0] >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as context, pytest.raises(DiskError, match=r"No space left on device.* MB"):
        context.setattr(files, "_sync", full)
        trainer(tmp_path).fit(*built("cbst", *OPTIONS))
    round_ = 1 if at <= 6 else 2
    assert not (tmp_path / "pseudo_labels" / f"round_{round_}").exists(), "it counts as complete"
    assert not list((tmp_path / "pseudo_labels").glob("*.partial")), "it keeps the space that is missing"
    if round_ == 2:  # there is a checkpoint
        checkpoint = tmp_path / "checkpoints" / "last.ckpt"
        trainer(tmp_path).fit(*built("cbst", *OPTIONS, seed=1), ckpt_path=checkpoint, weights_only=True)
        assert_same_training(*(folder / "checkpoints" / "epoch=4.ckpt" for folder in (tmp_path, whole)))


def test_pictures_that_the_disk_does_not_take_cost_a_warning(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sync = files._sync

    def full(file: Path) -> None:
        if "pictures" in file.relative_to(tmp_path).parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(files, "_sync", full)
    trainer(tmp_path).fit(*built("cbst", *OPTIONS, "method.spatial_prior=true"))
    assert not list((tmp_path / "pictures").rglob("*.png"))
    assert "A picture was left out: " in caplog.text and "pseudo_labels_round_1.png cannot be written" in caplog.text
    assert caplog.text.count("spatial_prior/") == 1
