"""Optimisers against torch's own where we step in."""

import pytest
import torch
from torch import nn

from da_lightning.training.optimizers import make_optimizer

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("weights", LAYOUTS)
@pytest.mark.parametrize("others", LAYOUTS)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_fused_steps_are_right_in_any_layout(
    name: str, others: torch.memory_format, weights: torch.memory_format
) -> None:
    """Such as those of a run that resumes another one's checkpoint, after ``callbacks.channels_last=null``."""
    start = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    options = {"name": name, "lr": 0.1} | ({"momentum": 0.9} if name == "SGD" else {})
    results = []
    for fused in (False, True):
        weight = nn.Parameter(start.clone().to(memory_format=weights))
        optimizer = make_optimizer([(1.0, [weight])], options | {"fused": fused})
        for step in range(4):
            if step == 2:
                state = optimizer.state_dict()
                for key, value in state["state"][0].items():
                    if value.dim() == 4:
                        state["state"][0][key] = value.clone().contiguous(memory_format=others)
                optimizer.load_state_dict(state)
            gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            weight.grad = gradient.to(memory_format=others)
            optimizer.step()
            torch.testing.assert_close(weight.grad, gradient)
        assert weight.is_contiguous(memory_format=weights)
        results.append(weight.detach())
    torch.testing.assert_close(*results)
