"""From nodes to objects, and what must never become one."""

import pytest
from lightning.pytorch.callbacks import Timer
from omegaconf import OmegaConf

from da_lightning.config.build import build
from da_lightning.errors import UserError


def made(content: dict, **extra):
    return build(OmegaConf.create(content), "callbacks.thing", **extra)


def refusal(content: dict) -> str:
    with pytest.raises(UserError) as caught:
        made(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nested_nodes_become_objects_of_plain_values() -> None:
    dataset = {"_target_": "da_lightning.segmentation.datasets.ToyStreets", "style": "game", "size": "${size}"}
    content = {
        "size": [32, 48],
        "data": {
            "_target_": "da_lightning.segmentation.data.SegmentationDataModule",
            "classes": {name: [0, 0, 0] for name in "abcdefghijk"},
            "source": {**dataset, "count": 4},
            "target": {**dataset, "count": 3, "labelled": False},
            "tests": {"one": {**dataset, "count": 2}},
            "image_size": "${size}",
        },
    }
    data = build(OmegaConf.create(content).data, "data", batch_size=2)
    assert [len(view) for view in (data.source_view, data.target_view, data.tests["one"])] == [4, 3, 2]
    assert data.batch_sizes["source"] == 2
    assert type(data.target_view.size) is tuple
    assert type(data.source_view.dataset.size) is tuple


def test_extra_arguments_are_passed_as_they_are() -> None:
    board = OmegaConf.create({"_target_": "lightning.pytorch.loggers.CSVLogger"})
    assert build(board, "logger", save_dir="mine").save_dir == "mine"


def test_misspelt_targets_and_options_are_named() -> None:
    callbacks = "lightning.pytorch.callbacks"
    for target in (f"{callbacks}.Timre", f"{callbacks}.timre.Timer"):
        assert refusal({"_target_": target}).startswith(f"callbacks.thing._target_={target} cannot be imported")
    assert refusal({"_target_": f"{callbacks}.Timer", "durashun": 1}).startswith(
        "callbacks.thing.durashun is not an option of Timer"
    )
    assert refusal({"target": f"{callbacks}.Timer"}) == (
        "callbacks.thing has no _target_: name the class that is to be built there."
    )


def test_a_missing_package_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(Timer, "__init__", missing)
    assert "No module named 'tensorboard'" in refusal({"_target_": "lightning.pytorch.callbacks.Timer"})
