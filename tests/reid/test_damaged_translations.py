"""Translations and camera styles that an earlier crash or a full disk left damaged."""

import errno
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_people import TinyPeople
from tiny_runs import trainer

from da_lightning import files, stages
from da_lightning.errors import DataError
from da_lightning.files import DiskError, problem_of_images
from da_lightning.reid.camera_style_files import CameraStyles
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.spgan import SPGAN
from da_lightning.reid.translated import WriteTranslations
from da_lightning.translation.data import UnpairedImages

SIZE, CROP = (28, 32), (24, 28)
SIZES = {"width": 4, "residuals": 1, "discriminator_width": 4, "siamese_width": 4, "siamese_embedding": 8}


def method() -> SPGAN:
    return SPGAN(optimizer={"name": "SGD", "lr": 0.001}, max_iters=2, image_size=CROP, **SIZES)


def people() -> UnpairedImages:
    source, target = TinyPeople([1, 2, 5] * 3, SIZE, labelled=True), TinyPeople([3, 4] * 4, SIZE)
    return UnpairedImages(
        source, target, image_size=CROP, crop_size=CROP, batch_size=2, eval_batch_size=4, iterations_per_epoch=2
    )


def finish(run: Path) -> None:
    """The end of a training that had ended before."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    trainer(run, WriteTranslations()).fit(method(), people(), ckpt_path=checkpoint, weights_only=True)


def images(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "translated").rglob("*.png")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder, WriteTranslations()).fit(method(), people())
    return folder


def damage(run: Path) -> list[Path]:
    """Five of nine translations, each in another way."""
    found = sorted((run / "translated").rglob("*.png"))[:5]
    content = found[1].read_bytes()
    found[0].write_bytes(b"")
    found[1].write_bytes(content[: len(content) // 2])
    found[2].write_bytes(bytes(len(content)))
    found[3].write_text("no image")
    found[4].unlink()
    return found


def test_what_is_damaged_is_made_again_and_the_rest_is_left(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    damaged = damage(run)
    kept = {file: file.stat().st_mtime_ns for file in (run / "translated").rglob("*.png") if file not in damaged}
    assert len(kept) == 4
    finish(run)
    assert images(run) == images(whole)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage", b"\n\n\n"])
def test_a_damaged_record_makes_all_again(content: bytes, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "translated" / ".made_by").write_bytes(content)
    finish(run)
    assert images(run) == images(whole)
    assert problem_of_images(run / "translated") is None


def test_a_full_disk_ends_the_stage_and_resuming_heals_it(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sync = Path(shutil.copytree(whole, tmp_path / "run")), files._sync
    shutil.rmtree(run / "translated")

    def full(file: Path) -> None:
        if len(list((run / "translated").rglob("[!.]*.png"))) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as context, pytest.raises(DiskError, match="No space left on device"):
        context.setattr(files, "_sync", full)
        finish(run)
    assert len(images(run)) == 4 and not list((run / "translated").rglob(".part*"))
    finish(run)
    assert images(run) == images(whole)


def test_a_finished_stage_with_damaged_images_is_opened_again(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for expected, change in ((True, lambda: None), (False, lambda: damage(run)), (False, delete(run / "translated"))):
        (run / "metrics.json").write_text("{}")
        change()
        stages._reopen_damaged([run / "translated"], [run])
        assert (run / "metrics.json").is_file() is expected


def delete(folder: Path):
    return lambda: shutil.rmtree(folder)


def test_damaged_translations_are_refused_before_training(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    source = TinyPeople([1, 2, 5] * 3, SIZE, labelled=True)
    data = {"source": source, "target": TinyPeople([3, 4] * 4, SIZE), "translated": str(run / "translated")}
    PersonDataModule(**data, image_size=SIZE)
    damage(run)[4].write_bytes(b"")
    with pytest.raises(DataError, match=r"\b5 of 9\b.*/translated\b"):
        PersonDataModule(**data, image_size=SIZE)


def test_damaged_camera_styles_are_refused_before_training(tmp_path: Path) -> None:
    names, cameras = [f"{n:04d}" for n in range(6)], [1, 2] * 3
    for name, own in zip(names, cameras, strict=True):
        Image.effect_noise((32, 64), 50).save(tmp_path / f"{name}_fake_{own}to{3 - own}.jpg")
    CameraStyles(tmp_path, names, cameras)
    first, second, third, *_ = sorted(tmp_path.iterdir())
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:200])
    # Bytes behind the end of a JPEG, which phones and viewers write, are no damage.
    third.write_bytes(third.read_bytes() + bytes(10000))
    with pytest.raises(DataError, match=rf"\b2 of 6\b.*{tmp_path}\b.*{first}"):
        CameraStyles(tmp_path, names, cameras)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_any_cut_of_any_kind_is_damage(kind: str, tmp_path: Path) -> None:
    stream, file = io.BytesIO(), tmp_path / f"x.{kind.lower()}"
    Image.effect_noise((20, 30), 90).save(stream, kind)
    content = stream.getvalue()
    file.write_bytes(content)
    assert files.damaged_images([file]) == []
    for size in (0, 1, 9, len(content) // 3, len(content) - 13):
        file.write_bytes(content[:size])
        assert files.damaged_images([file]) == [file], size
    assert files.damaged_images([tmp_path / "none.png", tmp_path]) == [tmp_path / "none.png", tmp_path]
