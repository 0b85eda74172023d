"""A training step of MUNIT and of UNIT against the official schedule in plain modules: time, side by side, and memory.

The plain way makes a forward pass of its own for the discriminators, keeps its graph, computes every gradient, decodes
one code at a time and convolves at the high resolution.

python -m benchmarks.munit_step [repetitions] [size] [width]
"""

import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.training.optimizers import make_optimizer
from da_lightning.training.players import Backward
from da_lightning.translation.munit import MUNIT
from da_lightning.translation.unit import UNIT

ADAM = {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
RELU = nn.ReLU()
CYCLE = {"munit": 0.0, "unit": 10.0}  # as official for edges2shoes


# -- the plain way -----------------------------------------------------------------------------------------------------


class PlainLayerNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        x = (x - flat.mean(1)[:, None, None, None]) / (flat.std(1)[:, None, None, None] + 1e-5)
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


class PlainAdaIN(nn.Module):
    shift: Tensor
    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        planes = x.reshape(1, -1, *x.shape[2:])
        return F.batch_norm(planes, None, None, self.scale.flatten(), self.shift.flatten(), True).view_as(x)


class PlainResidual(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module] | None) -> None:
        super().__init__()
        self.block = nn.Sequential(*conv(width, width, 3, 1, norm), *conv(width, width, 3, 1, norm, None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def conv(
    i: int, o: int, k: int, s: int = 1, norm: type[nn.Module] | None = None, last: nn.Module | None = RELU
) -> list[nn.Module]:
    norms = [] if norm is None else [PlainAdaIN()] if norm is PlainAdaIN else [norm(o)]
    return [nn.ReflectionPad2d((k - 1) // 2), nn.Conv2d(i, o, k, s), *norms, *([last] if last else [])]


class PlainGenerator(nn.Module):
    def __init__(self, width: int, has_style: bool) -> None:
        super().__init__()
        w, instance = width, nn.InstanceNorm2d
        inner: type[nn.Module] = PlainAdaIN if has_style else instance
        self.encoder = nn.Sequential(
            *conv(3, w, 7, 1, instance),
            *conv(w, 2 * w, 4, 2, instance),
            *conv(2 * w, 4 * w, 4, 2, instance),
            *(PlainResidual(4 * w, instance) for _ in range(4)),
        )
        self.decoder = nn.Sequential(
            *(PlainResidual(4 * w, inner) for _ in range(4)),
            nn.Upsample(scale_factor=2),
            *conv(4 * w, 2 * w, 5, 1, PlainLayerNorm),
            nn.Upsample(scale_factor=2),
            *conv(2 * w, w, 5, 1, PlainLayerNorm),
            *conv(w, 3, 7, last=nn.Tanh()),
        )
        if has_style:
            self.style = nn.Sequential(
                *conv(3, w, 7),
                *conv(w, 2 * w, 4, 2),
                *conv(2 * w, 4 * w, 4, 2),
                *conv(4 * w, 4 * w, 4, 2),
                *conv(4 * w, 4 * w, 4, 2),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(4 * w, 8, 1),
            )
            self.mlp = nn.Sequential(
                nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64 * w)
            )

    def decode(self, code: Tensor, style: Tensor | None = None) -> Tensor:
        if style is not None:
            parts = iter(self.mlp(style.flatten(1)).chunk(16, 1))
            for module in self.decoder.modules():
                if isinstance(module, PlainAdaIN):
                    module.shift, module.scale = next(parts), next(parts)
        return self.decoder(code)


class PlainDiscriminator(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        w, leaky = width, nn.LeakyReLU(0.2)
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                *conv(3, w, 4, 2, last=leaky),
                *conv(w, 2 * w, 4, 2, last=leaky),
                *conv(2 * w, 4 * w, 4, 2, last=leaky),
                *conv(4 * w, 8 * w, 4, 2, last=leaky),
                nn.Conv2d(8 * w, 1, 1),
            )
            for _ in range(3)
        )

    def loss(self, image: Tensor, label: float) -> Tensor:
        total = torch.zeros(())
        for scale in self.scales:
            total = total + ((scale(image).float() - label) ** 2).mean()
            image = self.pool(image)
        return total


class Plain:
    """Generators and discriminators of domains a and b, and the losses of an iteration in their order."""

    def __init__(self, method: str, width: int) -> None:
        self.has_style = method == "munit"
        self.generators = nn.ModuleList(PlainGenerator(width, self.has_style) for _ in "ab")
        self.discriminators = nn.ModuleList(PlainDiscriminator(width) for _ in "ab")
        parts = {"generator": self.generators, "discriminator": self.discriminators}
        self.optimizers = {name: torch.optim.Adam(part.parameters(), **ADAM) for name, part in parts.items()}

    def updates(self, images: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Tensor]]:
        losses = self.munit(images) if self.has_style else self.unit(images)
        yield from zip(("discriminator", "generator"), losses, strict=True)

    def judged(self, images: tuple[Tensor, Tensor], fakes: tuple[Tensor, Tensor]) -> Tensor:
        a, b = (
            d.loss(f.detach(), 0) + d.loss(x, 1) for d, f, x in zip(self.discriminators, fakes, images, strict=True)
        )
        return a + b

    def fooled(self, fakes: tuple[Tensor, Tensor]) -> Tensor:
        a, b = (d.loss(f, 1) for d, f in zip(self.discriminators, fakes, strict=True))
        return a + b

    def munit(self, images: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        (a, b), (x_a, x_b) = self.generators, images
        s_a, s_b = torch.randn(len(x_a), 8), torch.randn(len(x_b), 8)
        c_a, _, c_b, _ = a.encoder(x_a), a.style(x_a), b.encoder(x_b), b.style(x_b)
        yield self.judged(images, (a.decode(c_b, s_a), b.decode(c_a, s_b)))

        s_a, s_b = torch.randn(len(x_a), 8), torch.randn(len(x_b), 8)
        c_a, own_a, c_b, own_b = a.encoder(x_a), a.style(x_a), b.encoder(x_b), b.style(x_b)
        x_aa, x_bb = a.decode(c_a, own_a), b.decode(c_b, own_b)
        x_ba, x_ab = a.decode(c_b, s_a), b.decode(c_a, s_b)
        again_b, again_s_a, again_a, again_s_b = a.encoder(x_ba), a.style(x_ba), b.encoder(x_ab), b.style(x_ab)
        images_again = F.l1_loss(x_aa, x_a) + F.l1_loss(x_bb, x_b)
        styles_again = F.l1_loss(again_s_a.flatten(1), s_a) + F.l1_loss(again_s_b.flatten(1), s_b)
        contents_again = F.l1_loss(again_a, c_a) + F.l1_loss(again_b, c_b)
        yield self.fooled((x_ba, x_ab)) + 10 * images_again + styles_again + contents_again

    def unit(self, images: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        (a, b), (x_a, x_b) = self.generators, images
        h_a, h_b = a.encoder(x_a), b.encoder(x_b)
        n_a, n_b = torch.randn_like(h_a), torch.randn_like(h_b)
        yield self.judged(images, (a.decode(h_b + n_b), b.decode(h_a + n_a)))

        h_a, h_b = a.encoder(x_a), b.encoder(x_b)
        n_a, n_b = torch.randn_like(h_a), torch.randn_like(h_b)
        x_aa, x_bb, x_ba, x_ab = a.decode(h_a + n_a), b.decode(h_b + n_b), a.decode(h_b + n_b), b.decode(h_a + n_a)
        again_b, again_a = a.encoder(x_ba), b.encoder(x_ab)
        x_aba, x_bab = a.decode(again_a + torch.randn_like(h_a)), b.decode(again_b + torch.randn_like(h_b))
        images_again = F.l1_loss(x_aa, x_a) + F.l1_loss(x_bb, x_b) + F.l1_loss(x_aba, x_a) + F.l1_loss(x_bab, x_b)
        squares = sum((code**2).mean() for code in (h_a, h_b, again_a, again_b))
        yield self.fooled((x_ba, x_ab)) + 10 * images_again + 0.01 * squares


# -- ours --------------------------------------------------------------------------------------------------------------


class Ours:
    def __init__(self, method: str, width: int, layout: torch.memory_format = torch.channels_last) -> None:
        kind = {"munit": MUNIT, "unit": UNIT}[method]
        adam = {"name": "Adam", "fused": True, **ADAM}
        options = {"optimizer": adam, "max_iters": 1, "cycle_weight": CYCLE[method]}
        self.module = kind(width=width, discriminator_width=width, **options).to(memory_format=layout)  # type: ignore
        players = self.module.players()
        self.optimizers = {name: make_optimizer(player.groups, player.optimizer) for name, player in players.items()}

    def updates(self, images: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Tensor]]:
        batch = {domain: {"image": image} for domain, image in zip(("source", "target"), images, strict=True)}
        for update in self.module.updates(batch):
            if isinstance(update, Backward):
                yield update.player, torch.stack([term.weight * term.value for term in update.terms.values()]).sum()


class Process:
    """One way, in a process of its own, so that its memory can be told; steps are asked for one at a time."""

    def __init__(self, way: str, method: str, size: int, width: int, dtype: torch.dtype) -> None:
        self.pool = get_context("spawn").Pool(1, _start, (way, method, size, width, dtype))

    def step(self) -> tuple[float, float]:
        """Seconds of a step, and the peak so far in MB."""
        return self.pool.apply(_step)


def _start(way: str, method: str, size: int, width: int, dtype: torch.dtype) -> None:
    global trained, images, precision
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    trained = Plain(method, width) if way == "plain" else Ours(method, width)
    images, precision = tuple(2 * torch.rand(2, 1, 3, size, size) - 1), dtype


def _step() -> tuple[float, float]:
    started = time.perf_counter()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        for name, loss in trained.updates(images):
            trained.optimizers[name].zero_grad()
            loss.backward()
            trained.optimizers[name].step()
            if isinstance(trained, Ours):
                trained.optimizers[name].zero_grad()  # as AdaptationModule does
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    given = dict(enumerate(sys.argv[1:]))
    repetitions, size, width = (int(given.get(n, default)) for n, default in enumerate((3, 128, 64)))
    table = Table(
        title=f"A step at {size}x{size}, batch 1, width {width}, fastest of {repetitions}", title_justify="left"
    )
    for column in ("method", "way", "precision", "s", "of plain float32", "MB"):
        table.add_column(column, justify="right")
    for method in ("munit", "unit"):
        kinds = [(way, precision) for precision in ("float32", "bfloat16") for way in ("plain", "ours")]
        ways = [Process(way, method, size, width, getattr(torch, precision)) for way, precision in kinds]
        steps = [[way.step() for way in ways] for _ in range(repetitions + 1)][1:]  # the first chooses kernels
        for way in ways:
            way.pool.terminate()
        seconds = [min(step[way][0] for step in steps) for way in range(len(ways))]
        for kind, fastest, (_, peak) in zip(kinds, seconds, steps[-1], strict=True):
            table.add_row(method, *kind, f"{fastest:.2f}", f"{fastest / seconds[0]:.2f}", f"{peak:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
