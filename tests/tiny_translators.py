"""A translator of twelve weights, for what does not depend on how an image is translated."""

from typing import Any

import torch
from torch import Tensor, nn

from da_lightning.training.players import Group, Player
from da_lightning.translation.module import Domain, TranslationModule


class Tint(TranslationModule):
    """Mixes the colours and, where there are styles, adds a colour; the style of an image is its mean colour."""

    def __init__(
        self,
        style_dim: int = 0,
        gain: float = 0.5,
        init_from: str | None = None,
        optimizer: dict[str, Any] | None = None,
        max_iters: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(optimizer or {"name": "SGD", "lr": 0.1}, max_iters, **options)
        self.save_hyperparameters()
        self.style_dim = style_dim
        self.mix = nn.Conv2d(3, 3, 1)
        nn.init.zeros_(self.mix.bias)
        self.mix.weight.data = gain * torch.eye(3)[..., None, None]

    def generate(self, image: Tensor, to: Domain, style: Tensor | None) -> Tensor:
        assert not any(side % self.stride for side in image.shape[-2:])
        tint = 0 if style is None else 0.1 * style[:, :3, None, None]
        return self.mix(image) + tint + (0.2 if to == "target" else -0.2)

    def encode_style(self, image: Tensor, domain: Domain) -> Tensor:
        return 10 * image.mean((2, 3))

    def players(self) -> dict[str, Player]:
        return {"generator": Player([Group(list(self.parameters()))], self.optimizer_options)}
