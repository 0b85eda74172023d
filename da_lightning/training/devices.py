"""Devices as ``trainer.devices`` names them, held against what the machine has."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.accelerators import MPSAccelerator, XLAAccelerator

from da_lightning.errors import UserError


def parsed_devices(devices: Any) -> int | list[int] | Literal["auto"]:
    """A number of devices, the indices of some, or ``auto`` for all.

    Raises:
        UserError: Anything else.
    """
    plain = devices.strip() if isinstance(devices, str) else devices
    if isinstance(plain, Sequence) and not isinstance(plain, str):
        plain = list(plain)  # a configuration's list is none of Python's
    if plain in ("auto", "-1", -1):
        return "auto"
    if isinstance(plain, str) and plain.isdigit():
        plain = int(plain)
    elif isinstance(plain, str) and "," in plain and all(d.strip().isdigit() for d in plain.split(",") if d.strip()):
        plain = [int(d) for d in plain.split(",") if d.strip()]
    if type(plain) is int and plain >= 1:
        return plain
    if isinstance(plain, list) and plain and all(type(d) is int and d >= 0 for d in plain):
        if len(set(plain)) == len(plain):
            return plain
        raise UserError(f"trainer.devices={plain} names a device twice: name each once.")
    raise UserError(
        f"trainer.devices={devices} names no devices: give a number from 1 on, a list of GPUs ([0,2]), or auto for all."
    )


def check_devices(accelerator: Any, devices: Any) -> None:
    """Check that the machine has the GPUs that ``devices`` asks for; processes on CPUs are not limited.

    Raises:
        UserError: It has fewer, or a list names GPUs where none are used.
    """
    wanted = parsed_devices(devices)
    if accelerator in ("auto", "gpu") and (MPSAccelerator.is_available() or XLAAccelerator.is_available()):
        return
    gpus = torch.cuda.device_count() if accelerator in ("auto", "gpu", "cuda") else 0
    if accelerator == "cpu" or (accelerator == "auto" and gpus == 0):
        if isinstance(wanted, list):
            why = "this machine has none" if accelerator == "auto" else "trainer.accelerator=cpu uses none"
            raise UserError(
                f"trainer.devices={wanted} lists GPUs, but {why}: give the number of processes on the CPU, "
                f"trainer.devices={len(wanted)}."
            )
        return
    if accelerator not in ("auto", "gpu", "cuda"):
        return  # unknown, or another company's: Lightning knows
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched() and gpus == 1:
        return  # torchrun may show each process the one GPU that is its own
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    has = (
        f"this machine has {gpus or 'none'}"
        + (" (numbered from 0)" if gpus and isinstance(wanted, list) else "")
        + (f" that CUDA_VISIBLE_DEVICES={visible} shows" if visible is not None else "")
    )
    if gpus == 0:
        raise UserError(
            f"trainer.accelerator={accelerator} asks for GPUs, but {has}: give trainer.accelerator=cpu for processes "
            "on the CPU, or see whether PyTorch is installed with CUDA."
        )
    short = max(wanted) >= gpus if isinstance(wanted, list) else wanted != "auto" and wanted > gpus
    if short:
        number = f"the GPUs {wanted}" if isinstance(wanted, list) else f"{wanted} GPUs"
        raise UserError(
            f"trainer.devices={devices} asks for {number}, but {has}: give trainer.devices={gpus} or less, or "
            "trainer.accelerator=cpu for processes on the CPU."
        )
