"""Optimisers against torch's own where we step in."""

import pytest
import torch
from torch import nn

from da_lightning.errors import UserError
from da_lightning.training.optimizers import make_optimizer, optimizer_options
from da_lightning.training.players import Group

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
        optimizer = make_optimizer([Group([weight])], options | {"fused": fused})
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


@pytest.mark.parametrize("gradients", LAYOUTS)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_gpus_get_all_tensors_of_a_fused_step_in_one_layout(name: str, gradients: torch.memory_format) -> None:
    """As CUDA's kernels check; no device is at hand, so that the step itself is left out."""
    weight = nn.Parameter(torch.empty(6, 4, 3, 3))
    optimizer = make_optimizer([Group([weight])], {"name": name, "lr": 0.1, "fused": True})
    elsewhere = nn.Parameter(torch.empty(6, 4, 3, 3, device="meta").to(memory_format=torch.channels_last))
    optimizer.param_groups[0]["params"] = [elsewhere]
    elsewhere.grad = torch.empty_like(elsewhere).contiguous(memory_format=gradients)
    optimizer.state[elsewhere]["exp_avg"] = torch.empty(6, 4, 3, 3, device="meta")
    for hook in optimizer._optimizer_step_pre_hooks.values():
        hook(optimizer, (), {})
    assert elsewhere.grad.stride() == optimizer.state[elsewhere]["exp_avg"].stride() == elsewhere.stride()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Adm", "lr": 0.1}, "name=Adm is no optimiser"),
        ({"name": "LBFGS", "lr": 0.1}, "name=LBFGS is no optimiser of torch.optim that we can step"),
        ({"lr": 0.1}, "has no name"),
        ({"name": "Adam"}, "has no lr"),
        ({"name": "Adam", "lr": -1.0}, "at least 0 for Adam, but found -1.0"),
        ({"name": "Adam", "lr": float("nan")}, "but found nan"),
        ({"name": "Adam", "lr": 0.1, "betas": (1.5, 2.0)}, "Adam optimiser refuses its options .*beta"),
        ({"name": "SGD", "lr": 0.1, "nesterov": True}, "SGD optimiser refuses its options .*[Nn]esterov"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_optimizer([Group([nn.Parameter(torch.zeros(1))])], options)


def test_a_players_options_go_over_the_shared_ones() -> None:
    shared = {"name": "Adam", "lr": 0.1, "betas": (0.5, 0.9)}
    assert optimizer_options(shared, None) == shared
    assert optimizer_options(shared, {"lr": 0.4}) == shared | {"lr": 0.4}
    assert optimizer_options(shared, {"name": "SGD", "lr": 0.4}) == {"name": "SGD", "lr": 0.4}
