"""From nodes to objects, and what must never become one."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from da_lightning.config.build import build
from da_lightning.errors import UserError


def made(content: dict, **extra):
    return build(OmegaConf.create(content), "thing", **extra)


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
    weights = torch.ones(3)
    assert made({"_target_": "torch.nn.CrossEntropyLoss"}, weight=weights).weight is weights


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.optim.adam.torch.load",
        "torch.nn.modules.torch.hub.load",
        "torchvision.datasets.utils.os.system",
        "lightning.pytorch.trainer.trainer.os.remove",
        "da_lightning.session.json.loads",
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "da_lightningx.thing",
        "torch.nn",
    ],
)
def test_targets_outside_the_trusted_packages_are_refused(target: str, tmp_path: Path) -> None:
    message = refusal({"_target_": target, "f": str(tmp_path)})
    assert message.startswith(f"thing._target_={target} ")


def test_nothing_is_imported_from_outside_the_trusted_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert "outside the trusted packages" in refusal({"_target_": "hostile.Method"})


def test_an_alias_of_a_trusted_name_is_seen_through() -> None:
    message = refusal({"_target_": "torch.optim.adam.torch.load", "f": "x"})
    assert "is torch.serialization.load, outside the trusted packages" in message
    assert "DA_TRUSTED_PACKAGES" in message


def test_a_nested_target_is_refused_with_its_place() -> None:
    hostile = {"_target_": "torch.nn.ModuleList", "modules": [{"_target_": "os.getcwd"}]}
    assert refusal(hostile).startswith("thing.modules.0._target_=os.getcwd ")


def test_the_environment_extends_the_trusted_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"_target_": "collections.Counter"}
    assert "outside the trusted packages" in refusal(content)
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "mine,collections")
    assert made(content) == {}
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "collection")  # a package, not the beginning of a name
    assert "outside the trusted packages" in refusal(content)


def test_misspelt_targets_and_options_are_named() -> None:
    assert refusal({"_target_": "torch.nn.Linaer"}).startswith("thing._target_=torch.nn.Linaer cannot be imported")
    assert refusal({"_target_": "torch.nn.mods.Linear"}).startswith("thing._target_=torch.nn.mods.Linear cannot be")
    nested = {"_target_": "torch.nn.Sequential", "modules": [{"_target_": "torch.nn.ReLU", "inplaze": True}]}
    assert refusal(nested).startswith("thing.modules.0.inplaze is not an option of ReLU")


def test_a_missing_package_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(nn.ReLU, "__init__", missing)
    assert "No module named 'tensorboard'" in refusal({"_target_": "torch.nn.ReLU"})
