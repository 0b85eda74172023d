"""A training step of the light network with channels-last weights against the default layout, in one run.

python -m benchmarks.channels_last [steps]
"""

import sys
import time

import torch
from rich.console import Console

from da_lightning.segmentation.losses import pixel_cross_entropy, upsampled
from da_lightning.segmentation.networks import LightNet


def seconds_per_step(layout: torch.memory_format, steps: int) -> float:
    torch.manual_seed(0)
    network = LightNet(11).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    image, label = torch.rand(8, 3, 144, 192), torch.randint(11, (8, 144, 192))
    started = 0.0
    for step in range(steps + 3):
        if step == 3:  # the first steps choose kernels
            started = time.perf_counter()
        loss = pixel_cross_entropy(upsampled(network(image)[0].logits, label.shape[-2:], True), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / steps


def main() -> None:
    torch.set_flush_denormal(True)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    plain = seconds_per_step(torch.contiguous_format, steps)
    last = seconds_per_step(torch.channels_last, steps)
    Console().print(f"{plain:.3f} s a step by default, {last:.3f} s channels last: {plain / last:.2f} x as fast")


if __name__ == "__main__":
    main()
