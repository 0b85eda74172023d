"""How well translators of drawn shoes keep outlines, follow styles and reach the photos' domain, by their checkpoints.

python -m benchmarks.toy_shoes <last.ckpt> [more checkpoints]

line F1         edges of the translations against those of the drawings, one pixel off still counts; 0..1
colour spread   variance of the mean colour over random styles of one drawing, as a share of that over real photos
colour follows  correlation of the mean colour of a translation under a photo's style with that photo's
taken for photo share of translations that a classifier, trained apart on drawings and photos, takes for photos
round trip      mean absolute error of drawings translated there and back, in grey levels of 255
"""

import sys

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from da_lightning.predict import load_method
from da_lightning.toy.shoes import edge_f1, edges, render_shoe
from da_lightning.translation.module import TranslationModule, as_uint8

DRAWINGS, STYLES = 40, 16


def shoes(style: str, first_seed: int, count: int) -> Tensor:
    """Shoes in [-1, 1], [count, 3, 64, 64]."""
    drawn = np.stack([render_shoe(first_seed + seed, style) for seed in range(count)])
    return torch.from_numpy(drawn).movedim(-1, 1) / 127.5 - 1


def domain_classifier() -> nn.Module:
    """Told drawings from photos by 1,000 other shoes of each."""
    torch.manual_seed(0)
    images = torch.cat([shoes("drawing", 40_000, 1000), shoes("photo", 50_000, 1000)])
    labels = torch.arange(2).repeat_interleave(1000)
    layers: list[nn.Module] = []
    for channels, wider in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels, wider, 4, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(200):
        chosen = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network.eval()


def measured(module: TranslationModule, judge: nn.Module) -> list[float | None]:
    """The scores in the order of the module's docstring; ``None`` where a method has no styles."""
    torch.manual_seed(0)
    drawings, photos = shoes("drawing", 20_000, DRAWINGS), shoes("photo", 30_000, 200)
    translated = module.translate(drawings, "target")
    lines = [
        edge_f1(*(edges(as_uint8(image).movedim(0, -1).numpy()) for image in pair))
        for pair in zip(translated, drawings, strict=True)
    ]
    spread = follows = None
    if module.style_dim:
        # Each drawing has styles of its own: the same few for all would make the spread itself a matter of chance.
        codes = torch.randn(STYLES, DRAWINGS, module.style_dim)
        colours = torch.stack([colour(module.translate(drawings, "target", code)) for code in codes])
        spread = float(colours.var(0).sum(-1).mean() / colour(photos).var(0).sum())
        givers = photos[:DRAWINGS]
        given = module.translate(drawings, "target", module.encode_style(givers, "target"))
        pairs = torch.stack((colour(given), colour(givers)))
        follows = float(np.mean([torch.corrcoef(pairs[..., channel])[0, 1].item() for channel in range(3)]))
    taken = float((judge(translated.clamp(-1, 1)).argmax(1) == 1).float().mean())
    round_trip = float((module.round_trip(drawings, "source") - drawings).abs().mean() * 127.5)
    return [float(np.mean(lines)), spread, follows, taken, round_trip]


def colour(images: Tensor) -> Tensor:
    """Mean colour [N, 3]."""
    return images.clamp(-1, 1).mean((2, 3))


def main() -> None:
    table = Table("checkpoint", "line F1", "colour spread", "colour follows", "taken for photo", "round trip")
    judge = domain_classifier()
    with torch.inference_mode():
        real = shoes("photo", 30_000, 200)
        print(f"The classifier takes {(judge(real).argmax(1) == 1).float().mean():.1%} of real photos for photos.")
        for path in sys.argv[1:]:
            module = load_method(path).eval()
            if not isinstance(module, TranslationModule):
                sys.exit(f"{path} holds no translator, but {type(module).__name__}: give one.")
            scores = measured(module, judge)
            table.add_row(path, *("-" if score is None else f"{score:.2f}" for score in scores))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
