"""``trainer.devices`` held against the machine, whatever machine this is."""

from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator
from omegaconf import OmegaConf

from da_lightning.errors import UserError
from da_lightning.training.devices import check_devices, parsed_devices


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (1, 1), (4, 4), ("4", 4), (" 2 ", 2), ([0, 2], [0, 2]), (OmegaConf.create([1]), [1]), ("0,2", [0, 2]),
        ("3,", [3]), ("auto", "auto"), (-1, "auto"), ("-1", "auto"),
    ],
)  # fmt: skip
def test_devices(devices: Any, expected: Any) -> None:
    assert parsed_devices(devices) == expected


@pytest.mark.parametrize(
    "devices", [0, "0", -2, "-2", [], "", "abc", "a,b", 1.5, "1.5", None, True, [True], [-1], ["a"], {"a": 1}]
)
def test_what_names_no_devices_is_refused(devices: Any) -> None:
    with pytest.raises(UserError, match=r"^trainer\.devices="):
        check_devices("cpu", devices)


def test_a_device_is_named_once() -> None:
    with pytest.raises(UserError, match="names a device twice"):
        check_devices("gpu", [0, 0])


@pytest.mark.parametrize(
    ("gpus", "accelerator", "devices", "complaint"),
    [
        (0, "gpu", 1, "trainer.accelerator=gpu asks for GPUs"),
        (0, "gpu", "auto", "trainer.accelerator=gpu asks for GPUs"),
        (0, "cuda", 4, "trainer.accelerator=cuda asks for GPUs"),
        (0, "gpu", [0, 7], "trainer.accelerator=gpu asks for GPUs"),
        (0, "auto", [0, 7], "trainer.devices=[0, 7] lists GPUs"),
        (0, "auto", 64, None),
        (0, "cpu", 64, None),
        (0, "auto", "auto", None),
        (1, "cpu", 4, None),
        (1, "cpu", [0, 1], "trainer.devices=[0, 1] lists GPUs, but trainer.accelerator=cpu"),
        (1, "auto", 4, "trainer.devices=4 asks for 4 GPUs, but this machine has 1: give trainer.devices=1 or less"),
        (1, "gpu", "2", "trainer.devices=2 asks for 2 GPUs, but this machine has 1"),
        (3, "gpu", 4, "trainer.devices=4 asks for 4 GPUs, but this machine has 3"),
        (3, "gpu", [0, 7], "asks for the GPUs [0, 7], but this machine has 3 (numbered from 0)"),
        (3, "gpu", [0, 2], None),
        (3, "gpu", "auto", None),
        (3, "gpu", -1, None),
        (4, "auto", 4, None),
    ],
)
def test_the_sentence_says_how_many_there_are(
    gpus: int, accelerator: str, devices: Any, complaint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if complaint is None:
        check_devices(accelerator, devices)
    else:
        with pytest.raises(UserError) as caught:
            check_devices(accelerator, devices)
        assert complaint in str(caught.value)


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError, match=r"\b2\b.*CUDA_VISIBLE_DEVICES=2,3"):
        check_devices("gpu", 4)
