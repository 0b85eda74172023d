"""The Mix Transformer, MiT (Xie et al., SegFormer, NeurIPS 2021), written from the paper."""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from da_lightning.arguments import Share
from da_lightning.errors import CheckpointError, UserError
from da_lightning.networks.normalise import Normalise
from da_lightning.training.weights import read_state_dict, some_of

log = logging.getLogger(__name__)

VARIANTS: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""Channels and blocks of the four stages."""

HEADS, REDUCTIONS, EXPANSION = (1, 2, 5, 8), (8, 4, 2, 1), 4
"""Attention heads and reduction of keys and values in each stage; how much wider the hidden layer of each block is."""


class MixTransformer(nn.Module):
    """Images float32 RGB [B, 3, H, W] in [0, 1] to maps at strides 4, 8, 16, 32; names are those of official files.

    Args:
        variant: A key of :data:`VARIANTS`.
        drop_path: Chance that the last block is skipped; it grows linearly from 0 at the first one.
        pretrained: A file of weights, of the official code or of transformers; ``None`` for random ones.

    Raises:
        UserError: An unknown variant.
        CheckpointError: A file that does not fit.
    """

    def __init__(self, variant: str = "mit_b0", drop_path: Share = 0.1, pretrained: str | None = None) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"method.network.backbone={variant} must be one of {', '.join(VARIANTS)}: change it.")
        self.channels, depths = VARIANTS[variant]
        self.channels, self.strides = tuple(self.channels), (4, 8, 16, 32)
        self.is_sized = False
        self.normalise = Normalise("imagenet")
        self.normalisation = self.normalise.constants
        chances = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        for stage, (inputs, width, depth, end) in enumerate(
            zip((3, *self.channels), self.channels, depths, accumulate(depths), strict=False)
        ):
            self.add_module(f"patch_embed{stage + 1}", _PatchEmbedding(inputs, width, 3 if stage else 7))
            blocks = (_Block(width, HEADS[stage], REDUCTIONS[stage], p) for p in chances[end - depth : end])
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(width, eps=1e-6))
        self.apply(_initialise)
        if pretrained is None:
            log.info("%s starts from random weights: pretrained is not set.", variant)
        else:
            self._load(variant, pretrained)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if image.shape[-2] < 7 or image.shape[-1] < 7:
            raise UserError(
                f"Expected images of at least one patch of the Mix Transformer, 7x7 pixels, but found "
                f"{image.shape[-2]}x{image.shape[-1]}: enlarge data.crop_size or data.image_size."
            )
        maps, pyramid = self.normalise(image), []
        for stage in range(1, 5):
            tokens, size = getattr(self, f"patch_embed{stage}")(maps)
            for block in getattr(self, f"block{stage}"):
                tokens = block(tokens, size)
            maps = _as_map(getattr(self, f"norm{stage}")(tokens), size)
            pyramid.append(maps)
        return tuple(pyramid)

    def _load(self, variant: str, path: str) -> None:
        state, own = official_names(read_state_dict(path)), self.state_dict()
        missing = [name for name in own if name not in state]
        differing = [name for name in own if name in state and state[name].shape != own[name].shape]
        surplus = [name for name in state if name not in own and not name.startswith("head.")]  # ImageNet's classifier
        if missing or differing or surplus:
            raise CheckpointError(
                f"Expected the weights of {variant} in method.network.pretrained={path}, but the names do not fit "
                f"(missing: {some_of(missing)}; surplus: {some_of(surplus)}; of another shape: {some_of(differing)}): "
                "choose the variant that the file was made for."
            )
        self.load_state_dict({name: state[name] for name in own})


class _PatchEmbedding(nn.Module):
    """Overlapping patches: of 7x7 at stride 4, later of 3x3 at stride 2."""

    def __init__(self, inputs: int, width: int, kernel: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel, stride=kernel // 2 + 1, padding=kernel // 2)
        self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        maps = self.proj(maps)
        return self.norm(_as_tokens(maps)), (maps.shape[-2], maps.shape[-1])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads, reduction)
        self.drop_path = StochasticDepth(drop_path, "row")
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _MixFFN(width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens), size))


class _Attention(nn.Module):
    """Self-attention whose keys and values come from maps that a strided convolution made smaller."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        if self.sr is not None:
            self.norm = nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        seen = tokens if self.sr is None else self.norm(_as_tokens(self.sr(_as_map(tokens, size))))
        query, (key, value) = self.q(tokens), self.kv(seen).chunk(2, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _MixFFN(nn.Module):
    """Two layers with a depthwise 3x3 convolution between them, which stands for position encodings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.fc1, self.fc2 = nn.Linear(width, wide), nn.Linear(wide, width)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(wide, wide, 3, padding=1, groups=wide)})

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        maps = self.dwconv["dwconv"](_as_map(self.fc1(tokens), size))
        return self.fc2(F.gelu(_as_tokens(maps)))


_TRANSFORMERS = (
    (r"patch_embeddings\.(\d)\.proj", "patch_embed{}.proj"),
    (r"patch_embeddings\.(\d)\.layer_norm", "patch_embed{}.norm"),
    (r"block\.(\d)\.(\d+)\.layer_norm_([12])", "block{}.{}.norm{}"),
    (r"block\.(\d)\.(\d+)\.attention\.self\.query", "block{}.{}.attn.q"),
    (r"block\.(\d)\.(\d+)\.attention\.self\.(key|value)", "block{}.{}.attn.{}"),
    (r"block\.(\d)\.(\d+)\.attention\.self\.sr", "block{}.{}.attn.sr"),
    (r"block\.(\d)\.(\d+)\.attention\.self\.layer_norm", "block{}.{}.attn.norm"),
    (r"block\.(\d)\.(\d+)\.attention\.output\.dense", "block{}.{}.attn.proj"),
    (r"block\.(\d)\.(\d+)\.mlp\.dense([12])", "block{}.{}.mlp.fc{}"),
    (r"block\.(\d)\.(\d+)\.mlp\.dwconv\.dwconv", "block{}.{}.mlp.dwconv.dwconv"),
    (r"layer_norm\.(\d)", "norm{}"),
)
"""Names of transformers' SegFormer behind ``segformer.encoder.``, and the official ones; stages count from 0 there."""


def official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a backbone under the official names; ``backbone.`` and transformers' names are known, heads go."""
    prefixes = ("segformer.encoder.", "encoder.", "backbone.")
    prefix = next((p for p in prefixes if any(name.startswith(p) for name in state)), "")
    result = {_official(n.removeprefix(prefix)): value for n, value in state.items() if n.startswith(prefix)}
    for key in [name for name in result if ".attn.key." in name]:
        if (content := key.replace(".key.", ".value.")) in result:
            result[key.replace(".key.", ".kv.")] = torch.cat([result.pop(key), result.pop(content)])
    return result


def _official(name: str) -> str:
    place, _, entry = name.rpartition(".")
    for pattern, official in _TRANSFORMERS:
        if found := re.fullmatch(pattern, place):
            stage, *rest = found.groups()
            return f"{official.format(int(stage) + 1, *rest)}.{entry}"
    return name


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def _as_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def _initialise(part: nn.Module) -> None:
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Conv2d):
        nn.init.normal_(part.weight, std=(2 / (part.kernel_size[0] ** 2 * part.out_channels / part.groups)) ** 0.5)
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
