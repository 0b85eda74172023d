"""StarGAN against the same iterations written out in plain torch, its domains, its official files."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same, assert_same_training, backwards, trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from da_lightning.errors import CheckpointError, UserError
from da_lightning.seeds import mixed_seed
from da_lightning.translation.networks.stargan import StarDiscriminator, StarGenerator
from da_lightning.translation.stargan import StarGAN

SGD = {"name": "SGD", "lr": 0.01, "momentum": 0.9}

Batch = dict[str, dict[str, Tensor]]


def batches(count: int, size: int = 2, side: int = 16) -> list[Batch]:
    images = torch.rand(count, 2, size, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return [{"source": {"image": source}, "target": {"image": target}} for source, target in images]


def method(**options: Any) -> StarGAN:
    torch.manual_seed(0)
    sizes = {"width": 4, "residuals": 1, "discriminator_width": 4, "discriminator_layers": 2, "class_kernel": 4}
    return StarGAN(optimizer=SGD, **{"max_iters": 6, "critic_steps": 2, **sizes, **options})


def fit(module: StarGAN, content: list[Batch], folder: Path, **options: Any) -> None:
    path = options.pop("ckpt_path", None)
    trainer(folder, **options).fit(module, DataLoader(content, batch_size=None), ckpt_path=path, weights_only=True)


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "count"), [(StarGenerator(5), 8_430_528), (StarDiscriminator(5), 44_762_048)])
def test_networks_have_the_official_number_of_parameters(network: nn.Module, count: int) -> None:
    """As the official code prints them for five attributes of CelebA at 128 pixels."""
    assert sum(p.numel() for p in network.parameters()) == count


def test_shapes() -> None:
    image = torch.zeros(2, 3, 32, 48)
    assert StarGenerator(3, 4, 1)(image, torch.tensor([0, 2])).shape == image.shape
    realness, classes = StarDiscriminator(3, 4, layers=3)(image)
    assert (realness.shape, classes.shape) == ((2, 1, 4, 6), (2, 3))
    with pytest.raises(UserError, match="at least 64x64 pixels .* found 32x48"):
        StarDiscriminator(3, 4, layers=5)(image)


def test_norms_are_those_of_the_sample_in_use_too() -> None:
    network, images, domains = StarGenerator(2, 4, 1), torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    alone = torch.cat([network(image[None], domain[None]) for image, domain in zip(images, domains, strict=True)])
    for training in (True, False):
        torch.testing.assert_close(network.train(training)(images, domains), alone)


# -- training ----------------------------------------------------------------------------------------------------------


def by_hand(module: StarGAN, content: list[Batch]) -> None:
    """The official order: the discriminator each iteration, the generator each second."""
    generate, judge = module.generator, module.discriminator
    generators = torch.optim.SGD(generate.parameters(), lr=0.01, momentum=0.9)
    judges = torch.optim.SGD(judge.parameters(), lr=0.01, momentum=0.9)
    for iteration, batch in enumerate(content):
        torch.manual_seed(mixed_seed(0, iteration, 0))
        for optimizer in (generators, judges):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 if iteration <= 2 else 1 - (iteration - 2) / 2)
        real = torch.cat([batch["source"]["image"], batch["target"]["image"]])
        own = torch.tensor([0, 0, 1, 1])
        wanted = own[torch.randperm(4)]

        real_score, real_class = judge(real)
        fake = generate(real, wanted).detach()
        share = torch.rand(4, 1, 1, 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        score = judge(between)[0]
        slope = torch.autograd.grad(score, between, torch.ones_like(score), create_graph=True)[0]
        penalty = ((slope.reshape(4, -1).square().sum(1).sqrt() - 1) ** 2).mean()
        loss = -real_score.mean() + judge(fake)[0].mean() + F.cross_entropy(real_class, own) + 10 * penalty
        judges.zero_grad()
        loss.backward()
        judges.step()

        if iteration % 2 == 1:
            fake = generate(real, wanted)
            score, classes = judge(fake)
            back = (generate(fake, own) - real).abs().mean()
            generators.zero_grad()
            (-score.mean() + F.cross_entropy(classes, wanted) + 10 * back).backward()
            generators.step()


@pytest.mark.parametrize("options", [{}, {"generator": "unet", "halvings": 2}], ids=["resnet", "unet"])
def test_training_equals_the_hand_written_one(options: dict[str, Any], tmp_path: Path) -> None:
    module, content = method(max_iters=4, **options), batches(4)
    expected = deepcopy(module)
    by_hand(expected, content)
    fit(module, content, tmp_path)
    for (name, value), wanted in zip(module.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_terms_are_those_of_the_networks_outputs() -> None:
    module, (batch,) = method(critic_steps=1), batches(1)
    torch.manual_seed(7)
    (player, judged), (generator, terms) = backwards(module, batch)
    assert (player, generator) == ("discriminator", "generator")
    torch.manual_seed(7)
    real, own = torch.cat([batch["source"]["image"], batch["target"]["image"]]), torch.tensor([0, 0, 1, 1])
    wanted = own[torch.randperm(4)]
    fake = module.generator(real, wanted)
    (real_score, real_class), (fake_score, fake_class) = module.discriminator(real), module.discriminator(fake)
    expected = {
        "real": -real_score.mean(),
        "fake": fake_score.mean(),
        "classification": F.cross_entropy(real_class, own),
        "gradient_penalty": module._gradient_penalty(real, fake),
    }
    expected_of_generator = {
        "adversarial": -fake_score.mean(),
        "classification": F.cross_entropy(fake_class, wanted),
        "reconstruction": F.l1_loss(module.generator(fake, own), real),
    }
    for got, values in ((judged, expected), (terms, expected_of_generator)):
        torch.testing.assert_close({name: term.value for name, term in got.items()}, values)
    assert [term.weight for term in judged.values()] == [1, 1, 1, 10]
    assert [term.weight for term in terms.values()] == [1, 1, 10]


class LinearCritic(nn.Module):
    """``weight . image``, whose slope is ``weight`` wherever it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return (image * self.weight).sum((1, 2, 3)), image


@pytest.mark.parametrize("autocast", [False, True])
def test_penalty_of_a_linear_critic_and_its_gradient(autocast: bool) -> None:
    module, critic = method(), LinearCritic()
    module.discriminator = critic
    dtype = torch.bfloat16 if autocast else torch.float32
    real, fake = torch.rand(2, 5, 3, 4, 4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        penalty = module._gradient_penalty(real, fake)
    penalty.backward()
    slope = critic.weight.detach().norm()
    torch.testing.assert_close(penalty, (slope - 1) ** 2)
    torch.testing.assert_close(critic.weight.grad, 2 * (slope - 1) * critic.weight.detach() / slope)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    module, seen = method(), []
    module.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    module._gradient_penalty(torch.zeros(64, 3, 16, 16), torch.ones(64, 3, 16, 16))
    (between,) = seen
    shares = between[:, 0, 0, 0]
    assert torch.equal(between, shares[:, None, None, None].expand_as(between))
    assert 0 <= shares.min() < 0.1
    assert 0.9 < shares.max() <= 1


def test_each_player_moves_its_own_network() -> None:
    module, (batch,) = method(critic_steps=1), batches(1)
    for player, terms in backwards(module, batch):
        module.zero_grad()
        sum(term.weight * term.value for term in terms.values()).backward()
        assert {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None} == {player}


def test_the_generator_is_up_each_fifth_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (batch,) = method(critic_steps=5), batches(1)
    players = []
    for iteration in range(10):
        monkeypatch.setattr(StarGAN, "iteration", iteration)
        players.append([player for player, _ in backwards(module, batch)])
    both = ["discriminator", "generator"]
    assert players == 2 * [*4 * [["discriminator"]], both]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_white_images_train_on(precision: str, tmp_path: Path) -> None:
    module, content = method(), batches(6)
    for batch in content:
        batch["source"]["image"].fill_(1)
    fit(module, content, tmp_path, precision=precision)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module.translate(torch.rand(1, 3, 30, 45), "target").shape == (1, 3, 30, 45)


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    fit(method(), batches(3), tmp_path / "whole")
    fit(method(), batches(3), tmp_path / "rest", ckpt_path=tmp_path / "whole/checkpoints/epoch=0.ckpt")
    assert_same_training(tmp_path / "whole/checkpoints/last.ckpt", tmp_path / "rest/checkpoints/last.ckpt")


def test_accumulated_batches_are_refused() -> None:
    with pytest.raises(UserError, match="method.accumulate=1 for StarGAN"):
        method(accumulate=2)


# -- domains -----------------------------------------------------------------------------------------------------------


def test_domains_go_by_name_by_number_and_by_sample() -> None:
    module, images = method(num_domains=3).eval(), torch.rand(2, 3, 16, 16)
    assert torch.equal(module.generate(images, "target"), module.generate(images, 1))
    assert torch.equal(module.generate(images, "source"), module.generate(images, torch.tensor([0, 0])))
    mixed = module.generate(images, torch.tensor([2, 0]))
    torch.testing.assert_close(mixed[:1], module.generate(images[:1], 2))
    torch.testing.assert_close(mixed[1:], module.generate(images[1:], 0))
    assert not torch.equal(module.generate(images, 1), module.generate(images, 2))


def test_samples_may_carry_their_domain() -> None:
    """As cameras do: they are what is dealt out, and what the discriminator is to tell."""
    module, (batch,) = method(num_domains=4, critic_steps=1), batches(1)
    batch["source"]["domain"], batch["target"]["domain"] = torch.tensor([3, 0]), torch.tensor([2, 2])
    asked = []
    module.generator.register_forward_pre_hook(lambda _, given: asked.append(given[1].tolist()))
    (_, judged), _ = backwards(module, batch)
    real = torch.cat([batch["source"]["image"], batch["target"]["image"]])
    classes = module.discriminator(real)[1]
    torch.testing.assert_close(judged["classification"].value, F.cross_entropy(classes, torch.tensor([3, 0, 2, 2])))
    wanted, back = asked
    assert sorted(wanted) == [0, 2, 2, 3]
    assert back == [3, 0, 2, 2]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def write_official(module: StarGAN, folder: Path, iteration: int) -> None:
    generator = {}
    for name, value in module.generator.state_dict().items():
        layer, *rest = name.split(".")
        generator[".".join(["main", layer, *(["main"] if len(rest) == 2 else []), *rest])] = value
    generator["main.1.running_mean"] = torch.zeros(4)
    torch.save(generator, folder / f"{iteration}-G.ckpt")
    theirs = {"trunk": "main", "realness": "conv1", "classes": "conv2"}
    discriminator = {}
    for name, value in module.discriminator.state_dict().items():
        own, _, rest = name.partition(".")
        discriminator[f"{theirs[own]}.{rest}"] = value
    torch.save(discriminator, folder / f"{iteration}-D.ckpt")


def test_official_files_are_read_the_last_of_a_folder(tmp_path: Path) -> None:
    theirs = method()
    write_official(method(width=8), tmp_path, 9000)
    write_official(theirs, tmp_path, 10000)
    options = {key: value for key, value in theirs.hparams.items() if key != "init_from"}
    torch.manual_seed(1)
    assert_same(dict(StarGAN(init_from=str(tmp_path), **options).state_dict()), dict(theirs.state_dict()))
    one = StarGAN(init_from=str(tmp_path / "10000-G.ckpt"), **options)
    assert_same(dict(one.generator.state_dict()), dict(theirs.generator.state_dict()))


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="200000-G.ckpt and the like"):
        method(init_from=str(tmp_path))
    write_official(method(num_domains=5), tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"StarGenerator.*1-G\.ckpt.*\b0\.weight"):
        method(init_from=str(tmp_path))


def test_weights_of_a_checkpoint_of_ours_are_read(tmp_path: Path) -> None:
    module = method(max_iters=1)
    fit(module, batches(1), tmp_path)
    begun = method(init_from=str(tmp_path / "checkpoints/last.ckpt"))
    assert_same(dict(begun.state_dict()), dict(module.state_dict()))
