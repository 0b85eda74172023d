"""A training step of each segmentation network on 2 + 2 crops of 192x144: time, and memory above the state before it.

python -m benchmarks.networks [steps]

Each network has a process of its own and one thread. A step is a forward pass, a loss and a backward pass, for source
and for target, and then AdamW.
"""

import resource
import sys
import time
from multiprocessing import get_context
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from da_lightning.networks.base import build_part
from da_lightning.segmentation.losses import pixel_cross_entropy, upsampled
from da_lightning.segmentation.networks import SegmentationNetwork

PLACE = "da_lightning.segmentation.networks"


def _of(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"{PLACE}.{name}", **options}


def _timm(backbone: str, head: str = "LightHead") -> dict[str, Any]:
    return _of("TimmNetwork", backbone=backbone, head=_of(head))


NETWORKS = {
    "light": _of("LightNet"),
    "DeepLab-v2, ResNet-18": _of("DeepLabV2", backbone="resnet18", multi_level=False),
    "DeepLab-v2, ResNet-50": _of("DeepLabV2", backbone="resnet50", multi_level=False),
    "DeepLab-v2, ResNet-101": _of("DeepLabV2", backbone="resnet101", multi_level=False),
    "DeepLab-v2, VGG-16": _of("DeepLabVGG16"),
    "EfficientNet-Lite 0, light head": _timm("tf_efficientnet_lite0"),
    "EfficientNet-Lite 2, light head": _timm("tf_efficientnet_lite2"),
    "EfficientNet-Lite 0, DAFormer head": _timm("tf_efficientnet_lite0", "DAFormerHead"),
    "ConvNeXt-Atto, light head": _timm("convnext_atto"),
    "PVTv2-B0, DAFormer head": _timm("pvt_v2_b0", "DAFormerHead"),
    "MiT-B0, DAFormer head": _of("MiTNetwork", backbone="mit_b0", head=_of("DAFormerHead")),
    "DINOv2-S, plain head": _timm("vit_small_patch14_dinov2", "PlainHead"),
}


def measure(options: dict[str, Any], steps: int) -> tuple[float, float, float]:
    """Millions of parameters, fastest of ``steps`` in seconds, megabytes."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    network = build_part(options, SegmentationNetwork, "network", num_classes=11)
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    image, label = torch.rand(2, 2, 3, 144, 192), torch.randint(11, (2, 2, 144, 192))
    before, fastest = _peak(), float("inf")
    for _ in range(steps + 2):
        began = time.perf_counter()
        for images, labels in zip(image, label, strict=True):
            logits = upsampled(network(images)[0].logits, labels.shape[-2:], False)
            pixel_cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        fastest = min(fastest, time.perf_counter() - began)
    return sum(p.numel() for p in network.parameters()) / 1e6, fastest, _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    table = Table(
        "network", "M parameters", "s a step", "times light", "MB above", title=torch.backends.cpu.get_cpu_capability()
    )
    light = 0.0
    for name, options in NETWORKS.items():
        with get_context("spawn").Pool(1) as pool:
            parameters, seconds, memory = pool.apply(measure, (options, steps))
        light = light or seconds
        table.add_row(name, f"{parameters:.1f}", f"{seconds:.3f}", f"{seconds / light:.1f}", f"{memory:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
