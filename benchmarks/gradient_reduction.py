"""Gradients as means over two processes: DDP's reduction, during the backward pass, against one sum before the step.

python -m benchmarks.gradient_reduction [repetitions]
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet50

from da_lightning.segmentation.networks import Level, LightNet
from da_lightning.training.ranks import average_gradients

NETWORKS = {
    "light segmenter, 2 x 96x128": (lambda: LightNet(11, width=32), (2, 3, 96, 128)),
    "ResNet-50, 4 x 128x64": (lambda: resnet50(weights=None), (4, 3, 128, 64)),
}


def measure(rank: int, repetitions: int, name: str, file: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    ways: dict[str, nn.Module] = {
        "DDP": DistributedDataParallel(network),
        "DDP, looking for unused parameters": DistributedDataParallel(network, find_unused_parameters=True),
        "one sum before the step": DistributedDataParallel(network),
    }
    image, fastest = torch.rand(*shape), dict.fromkeys(ways, float("inf"))
    for repetition in range(repetitions + 2):
        for way, wrapped in ways.items():
            network.zero_grad()
            dist.barrier()
            began = time.perf_counter()
            if way.startswith("DDP"):
                loss(wrapped(image)).backward()
            else:
                with wrapped.no_sync():  # type: ignore[operator]
                    loss(wrapped(image)).backward()
                average_gradients(list(network.parameters()))
            dist.barrier()
            if repetition > 1:
                fastest[way] = min(fastest[way], time.perf_counter() - began)
    if rank == 0:
        first = fastest["DDP"]
        for way, seconds in fastest.items():
            print(f"{name}: {seconds * 1000:7.1f} ms  {seconds / first:.2f}  {way}")
    dist.destroy_process_group()


def loss(output: torch.Tensor | tuple[Level, ...]) -> torch.Tensor:
    maps = [output] if isinstance(output, torch.Tensor) else [level.logits for level in output]
    return torch.stack([each.square().mean() for each in maps]).sum()


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for name in NETWORKS:
        file = Path(f"/tmp/da_lightning_reduction_{os.getpid()}")
        mp.spawn(measure, (repetitions, name, str(file)), nprocs=2)
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
