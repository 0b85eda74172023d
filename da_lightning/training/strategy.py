"""Which Lightning strategy a method runs under."""

import torch

from da_lightning.training.module import AdaptationModule


def resolve_strategy(
    strategy: str, module: AdaptationModule, accelerator: str, devices: int | str | list[int], num_nodes: int
) -> str:
    """``auto`` becomes what ``module`` needs on more than one device; anything else is left as it is."""
    if strategy != "auto":
        return strategy
    return "auto" if count_processes(accelerator, devices, num_nodes) == 1 else module.ddp_strategy


def count_processes(accelerator: str, devices: int | str | list[int], num_nodes: int) -> int:
    """Processes that Lightning makes of these options of the trainer."""
    if isinstance(devices, list):
        count = len(devices)
    elif str(devices) in ("auto", "-1"):
        count = 1 if accelerator == "cpu" else max(1, torch.cuda.device_count())
    elif isinstance(devices, str) and "," in devices:
        count = len([d for d in devices.split(",") if d.strip()])
    else:
        count = int(devices)
    return count * num_nodes
