import pytest
import torch

from da_lightning.training.module import AdaptationModule, AdversarialModule
from da_lightning.training.strategy import resolve_strategy

UNUSED = "ddp_find_unused_parameters_true"


@pytest.mark.parametrize(
    ("strategy", "accelerator", "devices", "num_nodes", "expected"),
    [
        ("auto", "cpu", 1, 1, ("auto", "auto")),
        ("auto", "cpu", "1", 1, ("auto", "auto")),
        ("auto", "cpu", 2, 1, ("ddp", UNUSED)),
        ("auto", "cpu", "2", 1, ("ddp", UNUSED)),
        ("auto", "cpu", 1, 2, ("ddp", UNUSED)),
        ("auto", "cpu", "auto", 1, ("auto", "auto")),
        ("auto", "gpu", [0], 1, ("auto", "auto")),
        ("auto", "gpu", [0, 2], 1, ("ddp", UNUSED)),
        ("auto", "gpu", "0,2", 1, ("ddp", UNUSED)),
        ("auto", "gpu", "3,", 1, ("auto", "auto")),
        ("auto", "gpu", "auto", 1, ("ddp", UNUSED)),
        ("auto", "gpu", -1, 1, ("ddp", UNUSED)),
        ("auto", "auto", "auto", 1, ("ddp", UNUSED)),
        ("fsdp", "gpu", 4, 1, ("fsdp", "fsdp")),
        ("ddp", "cpu", 1, 1, ("ddp", "ddp")),
    ],
)
def test_strategy(strategy, accelerator, devices, num_nodes, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for kind, wanted in zip((AdaptationModule, AdversarialModule), expected, strict=True):
        module = kind(max_iters=1)
        assert resolve_strategy(strategy, module, accelerator, devices, num_nodes) == wanted


def test_all_devices_of_a_machine_without_gpus_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_strategy("auto", AdversarialModule(max_iters=1), "auto", "auto", 1) == "auto"
