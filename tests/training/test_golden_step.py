"""AdaptSegNet's training against the same two iterations written out in plain torch."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_runs import trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from da_lightning.segmentation.adaptsegnet import AdaptSegNet
from da_lightning.segmentation.source_only import SourceOnly

CLASSES = {"road": [128, 64, 128], "sky": [70, 130, 180], "car": [0, 0, 142]}
SGD = {"name": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0005}
ADAM = {"name": "Adam", "lr": 0.001, "betas": [0.9, 0.99]}

Batch = dict[str, dict[str, Tensor]]


def batches(count: int, size: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(4, (count, size, 32, 48), generator=generator)
    source, target = torch.rand(2, count, size, 3, 32, 48, generator=generator)
    return [
        {"source": {"image": s, "label": y.where(y < 3, 255)}, "target": {"image": t}}
        for s, y, t in zip(source, label, target, strict=True)
    ]


def loader(content: list[Batch]) -> DataLoader:
    return DataLoader(content, batch_size=None)


def method(**options) -> AdaptSegNet:
    torch.manual_seed(0)
    return AdaptSegNet(
        classes=CLASSES,
        network={"_target_": "da_lightning.segmentation.networks.LightNet", "width": 8, "multi_level": True},
        optimizer=SGD,
        discriminator_optimizer=ADAM,
        discriminator_width=8,
        adversarial_weights=(0.5, 0.2),  # large, so that a wrong weight shows in the segmenter's parameters
        **{"max_iters": 2, "horizon": 4, **options},
    )


def enlarged(logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=(32, 48), mode="bilinear", align_corners=True)


def supervised(main: Tensor, auxiliary: Tensor, label: Tensor) -> Tensor:
    losses = [F.cross_entropy(logits, label, ignore_index=255) for logits in (main, auxiliary)]
    return losses[0] + 0.1 * losses[1]


def by_hand(module: AdaptSegNet, content: list[Batch], gan) -> None:
    """The paper's iteration: all gradients first, at the same weights, then all steps."""
    network, critics = module.network, list(module.discriminators)
    segmenter = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=0.0005)
    judges = [torch.optim.Adam(critic.parameters(), lr=0.001, betas=(0.9, 0.99)) for critic in critics]
    for iteration, batch in enumerate(content):
        decay = (1 - iteration / 4) ** 0.9
        segmenter.param_groups[0]["lr"] = 0.02 * decay
        for judge in judges:
            judge.param_groups[0]["lr"] = 0.001 * decay
        for optimizer in (segmenter, *judges):
            optimizer.zero_grad()

        main, auxiliary = (enlarged(level.logits) for level in network(batch["source"]["image"]))
        target_main, target_auxiliary = (enlarged(level.logits) for level in network(batch["target"]["image"]))
        loss = supervised(main, auxiliary, batch["source"]["label"])
        for critic, weight, logits in zip(critics, (0.5, 0.2), (target_main, target_auxiliary), strict=True):
            loss = loss + weight * gan(critic(logits.softmax(1)), 0.0)  # to be taken for source, which is 0
        loss.backward()
        for optimizer in judges:
            optimizer.zero_grad()
        pairs = ((main, target_main), (auxiliary, target_auxiliary))
        for critic, (source, target) in zip(critics, pairs, strict=True):
            (gan(critic(source.detach().softmax(1)), 0.0) / 2).backward()
            (gan(critic(target.detach().softmax(1)), 1.0) / 2).backward()
        for optimizer in (segmenter, *judges):
            optimizer.step()


def cross_entropy(score: Tensor, wanted: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, wanted))


def squares(score: Tensor, wanted: float) -> Tensor:
    return ((score - wanted) ** 2).mean()


@pytest.mark.parametrize(("gan", "written_out"), [("vanilla", cross_entropy), ("least_squares", squares)])
def test_two_training_steps_equal_the_hand_written_ones(gan, written_out, tmp_path: Path) -> None:
    module, content = method(gan=gan), batches(2)
    expected = deepcopy(module)
    by_hand(expected, content, written_out)
    before = deepcopy(module.state_dict())
    trainer(tmp_path).fit(module, loader(content))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)
        assert name.endswith("num_batches_tracked") or not torch.equal(value, before[name])


def test_one_level_has_one_discriminator_and_its_weight(tmp_path: Path) -> None:
    module, content = method(levels=1), batches(1)
    expected = deepcopy(module)
    segmenter = torch.optim.SGD(expected.network.parameters(), lr=0.02, momentum=0.9, weight_decay=0.0005)
    main, auxiliary = (enlarged(level.logits) for level in expected.network(content[0]["source"]["image"]))
    target = enlarged(expected.network(content[0]["target"]["image"])[0].logits)
    loss = supervised(main, auxiliary, content[0]["source"]["label"])
    (loss + 0.5 * cross_entropy(expected.discriminators[0](target.softmax(1)), 0.0)).backward()
    segmenter.step()
    module.max_iters = 1
    trainer(tmp_path).fit(module, loader(content))
    assert len(module.discriminators) == 1
    for one, other in zip(module.network.parameters(), expected.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_accumulation_mixes_no_losses_of_different_players(tmp_path: Path) -> None:
    """The same batch twice, half of each gradient: the step of that batch alone."""
    (batch,) = batches(1)
    once, twice = method(horizon=10**9, max_iters=1), method(horizon=10**9, max_iters=2, accumulate=2)
    trainer(tmp_path / "once").fit(once, loader([batch]))
    trainer(tmp_path / "twice").fit(twice, loader([batch, batch]))
    for (name, one), other in zip(once.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_the_source_phase_and_adaptation_decay_each_on_their_own() -> None:
    module = method(source_iters=4, max_iters=8, horizon=10, adaptation_lr_factor=0.5)
    expected = [*((1 - i / 4) ** 0.9 for i in range(4)), *(0.5 * (1 - i / 10) ** 0.9 for i in range(4))]
    assert [module.schedule(i) for i in range(8)] == pytest.approx(expected)


def test_heads_learn_ten_times_as_fast() -> None:
    network = {"_target_": "da_lightning.segmentation.networks.DeepLabV2", "backbone": "resnet18"}
    module = SourceOnly(classes=CLASSES, network=network, optimizer=SGD, max_iters=1)
    (configured,) = module.configure_optimizers()
    backbone, heads = configured["optimizer"].param_groups
    assert (backbone["lr"], heads["lr"]) == (0.02, pytest.approx(0.2))
    count = sum(len(group["params"]) for group in (backbone, heads))
    assert count == sum(p.requires_grad for p in module.parameters())  # batch-norm weights are not trained
