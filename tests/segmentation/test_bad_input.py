"""What users get wrong, through the real command: one sentence, and a run folder that the corrected command can use."""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from da_lightning.run import main
from da_lightning.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

SIZE = (24, 32)
CLASS_MAP = (
    "classes:\n  road: {ids: [1], color: [128, 64, 128]}\n  car: {ids: [2, 3], color: [0, 0, 142]}\nignore_ids: [0]\n"
)


def draw(root: Path, labelled: bool = True, count: int = 4) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        for folder, pixels in {
            "images": random.integers(0, 256, (*SIZE, 3)),
            "labels": random.integers(0, 4, SIZE),
        }.items():
            if folder == "images" or labelled:
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{number}.png")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A correct command, on folders of its own: source, target, test."""
    for name in ("source", "target", "test"):
        draw(tmp_path / name, labelled=name != "target")
    (tmp_path / "classes.yaml").write_text(CLASS_MAP)
    roots = [f"data.{key}.root={tmp_path}/{key.rpartition('.')[2]}" for key in ("source", "target")]
    return [
        "data=image_label_folders_tested", *roots, f"data.tests.target.root={tmp_path}/test",
        f"data.class_map={tmp_path}/classes.yaml", "data.image_size=[24,32]", "data.batch_size=2", "data.num_workers=0",
        "method=cbst", "method.source_iters=2", "method.rounds=1", "method.iters_per_round=2",
        "network@method.network=light", "method.network.width=8", "trainer=cpu", "logger=csv",
        "callbacks.progress=null", "trainer.enable_progress_bar=false", f"hydra.run.dir={tmp_path}/run",
    ]  # fmt: skip


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[[list[str]], str | None]:
    """Runs the command in this process; returns what it complains of, ``None`` after success."""

    def run(arguments: list[str]) -> str | None:
        monkeypatch.setattr(sys, "argv", ["da-lightning", *arguments])
        monkeypatch.setenv("DA_RUN_STAMP", "stamp")
        monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler keeps the first test's stderr
        capfd.readouterr()
        try:
            main()
        except SystemExit as stop:
            assert stop.code not in (0, None)
            return sentence(capfd.readouterr().err)
        finally:
            GlobalHydra.instance().clear()
        return None

    return run


def sentence(stderr: str) -> str:
    """The one sentence after ``error:``."""
    assert "Traceback" not in stderr and stderr.count("error: ") == 1, stderr
    found = next(line for line in stderr.splitlines() if line.startswith("error: ")).removeprefix("error: ")
    assert found.endswith("."), "one sentence, on one line"
    return found


def check_run_folder(run: Path) -> None:
    """Nothing claims to be a result, and nothing is half written."""
    assert not (run / "metrics.json").exists()
    assert not list(run.rglob("*.partial"))
    for checkpoint in run.rglob("*.ckpt"):
        read_checkpoint(checkpoint)
    for picture in run.rglob("*.png"):
        Image.open(picture).load()


def check_corrected(command: Callable, arguments: list[str], run: Path) -> None:
    assert command(arguments) is None
    assert (run / "metrics.json").is_file()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "last.ckpt",
        "previous.ckpt",
        "source_only.ckpt",
    ]


# -- folders and files -------------------------------------------------------------------------------------------------


def no_folder(root: Path) -> str:
    (root / "source/images").rename(root / "source/pictures")
    return "source/images, which does not exist"


def empty_folder(root: Path) -> str:
    for path in (root / "target/images").iterdir():
        path.unlink()
    return "target/images, which has none"


def image_without_label(root: Path) -> str:
    (root / "source/labels/2.png").unlink()
    return f"1 of 4 images have no label of the same name, the first is {root}/source/images/2.png"


def label_without_image(root: Path) -> str:
    (root / "test/images/2.png").unlink()
    return f"1 of 4 labels have no image of the same name, the first is {root}/test/labels/2.png"


def other_size(root: Path) -> str:
    for path in (root / "source/images").iterdir():
        Image.new("RGB", (10, 10)).save(path)
    return "is 10x10 but its label"


def other_size_in_test(root: Path) -> str:
    Image.new("RGB", (10, 10)).save(root / "test/images/3.png")
    return f"{root}/test/images/3.png is 10x10 but its label {root}/test/labels/3.png is 32x24"


def unknown_id(root: Path) -> str:
    for path in (root / "source/labels").iterdir():
        Image.new("L", SIZE[::-1], 99).save(path)
    return "holds the ids [99], but those of ImageLabelFolder are [0, 1, 2, 3, 255]"


def unreadable_source(root: Path) -> str:
    for path in (root / "source/images").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    return "cannot be read as an image"


def unreadable_target(root: Path) -> str:
    """Whichever comes first, training or labelling, finds it."""
    (root / "target/images/1.png").write_text("<html>404</html>")
    return f"{root}/target/images/1.png cannot be read as an image"


def unreadable_test_label(root: Path) -> str:
    (root / "test/labels/1.png").write_bytes(b"")
    return f"{root}/test/labels/1.png cannot be read as an image"


SPOILED = [
    no_folder, empty_folder, image_without_label, label_without_image, other_size, other_size_in_test, unknown_id,
    unreadable_source, unreadable_target, unreadable_test_label,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda function: function.__name__)
def test_spoiled_data(tmp_path, arguments, command, spoil):
    expected = spoil(tmp_path)
    assert expected in command(arguments)
    check_run_folder(tmp_path / "run")
    for name in ("source", "target", "test"):
        draw(tmp_path / name, labelled=name != "target")
    check_corrected(command, arguments, tmp_path / "run")


def test_unreadable_image_while_labelling(tmp_path, arguments, command):
    expected = unreadable_target(tmp_path)
    assert expected in command([*arguments, "method.source_iters=0"])
    check_run_folder(tmp_path / "run")
    assert not list((tmp_path / "run").glob("pseudo_labels/*"))


def test_a_label_of_the_test_set_is_looked_at_before_training(tmp_path, arguments, command):
    assert other_size_in_test(tmp_path) in command(arguments)
    assert not (tmp_path / "run/checkpoints").exists()


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("method.portion=0", "method.portion=0.0 is not a share"),
        ("method.portion=1.5", "method.portion=1.5 is not a share"),
        ("method.max_portion=-0.5", "method.max_portion=-0.5 is not a share"),
        ("data.scale_jitter=[1.5,0.5]", "data.scale_jitter=[1.5, 0.5] is no range of scales"),
        ("data.crop_size=[0,16]", "data.crop_size.0=0 was refused"),
        ("data.num_workers=-1", "data.num_workers=-1 was refused"),
        ("method.accumulate=-2", "method.accumulate=-2 was refused"),
        ("method.clip_norm=-1", "method.clip_norm=-1 was refused"),
        ("method.source_share=2", "method.source_share=2.0 is not a share"),
        ("data.batch_size=5", "The source set has 4 samples, fewer than a batch of 5"),
        ("data.target_batch_size=5", "The target set has 4 samples, fewer than a batch of 5"),
        ("data.source.num_classes=3", "data.source maps its labels to 3 classes, but data.classes lists 2"),
        ("data.source.labelled=false", "data.source must read labels: set data.source.labelled=True"),
        ("data.class_map=nowhere.yaml", "The class map nowhere.yaml cannot be read"),
        ("data.image_size=[24]", "data.image_size"),
        ("method.seed=${nowhere}", "method.seed: Interpolation key 'nowhere' not found."),
    ],
)
def test_wrong_option(tmp_path, arguments, command, option, complaint):
    found = command([*arguments, option])
    assert found.startswith(complaint)
    check_run_folder(tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


def test_missing_options_are_all_named(tmp_path, command):
    run = f"hydra.run.dir={tmp_path}/run"
    assert command(["data=person_cameras", run]) == "data.root must be set: add data.root=... to the command."
    assert command(["data=image_label_folders", run]).startswith(
        "data.class_map, data.source.root, data.target.root must be set"
    )


# -- checkpoints -------------------------------------------------------------------------------------------------------

RESUMED_AND_BEGUN = pytest.mark.parametrize("option", ["ckpt_path", "method.init_from"])


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.victim}",)


@pytest.fixture
def trained(tmp_path, arguments, command) -> Path:
    """A checkpoint of the correct command."""
    assert command([*arguments, f"hydra.run.dir={tmp_path}/earlier"]) is None
    return tmp_path / "earlier/checkpoints/last.ckpt"


def save_hostile(path: Path, victim: Path, as_zip: bool) -> None:
    content = {"state_dict": {"network.classifier.bias": torch.zeros(2)}, "extra": Hostile(victim)}
    if as_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert not victim.exists()


@RESUMED_AND_BEGUN
@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_checkpoint_does_not_run(tmp_path, arguments, command, option, as_zip):
    save_hostile(tmp_path / "hostile.ckpt", tmp_path / "victim", as_zip)
    found = command([*arguments, f"{option}={tmp_path}/hostile.ckpt"])
    assert found.startswith(f"{tmp_path}/hostile.ckpt holds more than tensors and plain values")
    assert not (tmp_path / "victim").exists()
    check_run_folder(tmp_path / "run")


@RESUMED_AND_BEGUN
def test_damaged_checkpoints(tmp_path, arguments, command, trained, option):
    whole, path = trained.read_bytes(), tmp_path / "damaged.ckpt"
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 100]) + whole[middle + 100 :],
        "empty": b"",
        "a page": b"<html>404</html>",
    }
    for kind, content in damaged.items():
        path.write_bytes(content)
        found = command([*arguments, f"{option}={path}"])
        assert found.startswith(f"{path} "), kind
    path.unlink()
    assert command([*arguments, f"{option}={path}"]).startswith(f"Expected a checkpoint at {path}, found no file")
    check_run_folder(tmp_path / "run")
    check_corrected(command, [*arguments, f"method.init_from={trained}"], tmp_path / "run")


@RESUMED_AND_BEGUN
def test_checkpoint_of_other_classes(tmp_path, arguments, command, trained, option):
    for names in (("road", "bus"), ("car", "road"), ("road", "car", "bus")):
        entries = [f"  {name}: {{ids: [{number + 1}], color: [0, 0, 0]}}" for number, name in enumerate(names)]
        (tmp_path / "classes.yaml").write_text("\n".join(["classes:", *entries, "ignore_ids: [0]"]))
        found = command([*arguments, f"{option}={trained}"])
        assert found.startswith(f"Expected the classes {', '.join(names)}, but {trained} was trained on road, car")
    check_run_folder(tmp_path / "run")


def test_checkpoint_of_another_network_or_without_training(tmp_path, arguments, command, trained):
    found = command([*arguments, "method.network.width=16", f"ckpt_path={trained}"])
    assert found.startswith(f"{trained} is from another method or network")
    weights = trained.with_name("source_only.ckpt")
    assert command([*arguments, f"ckpt_path={weights}"]).endswith(f"with method.init_from={weights}.")
    check_run_folder(tmp_path / "run")


# -- in a process of its own, as users run it --------------------------------------------------------------------------


def in_a_process(arguments: list[str]) -> str:
    """What the command complains of on stderr."""
    process = subprocess.run(
        [sys.executable, "-m", "da_lightning.run", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.returncode != 0
    assert "Traceback" not in process.stdout
    return sentence(process.stderr)


@pytest.mark.parametrize("spoil", [unreadable_source, unreadable_target], ids=lambda f: f.__name__)
def test_errors_of_loader_processes(tmp_path, arguments, spoil):
    assert spoil(tmp_path) in in_a_process([*arguments, "data.num_workers=1"])
    check_run_folder(tmp_path / "run")


def test_hostile_checkpoint_in_a_process(tmp_path, arguments):
    save_hostile(tmp_path / "hostile.ckpt", tmp_path / "victim", as_zip=True)
    assert "was not opened" in in_a_process([*arguments, f"ckpt_path={tmp_path}/hostile.ckpt"])
    assert not (tmp_path / "victim").exists()
