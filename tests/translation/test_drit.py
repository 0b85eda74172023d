"""DRIT's terms written out by hand, the order of its updates, its official files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same, assert_same_training, backwards, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from da_lightning.errors import CheckpointError, UserError
from da_lightning.translation.drit import DRIT
from da_lightning.translation.networks.drit import (
    AttributeEncoder,
    ConcatGenerator,
    ContentDiscriminator,
    ContentEncoder,
    FeatureWiseGenerator,
    PointAttributeEncoder,
    official_state,
)

ADAM = {"name": "Adam", "lr": 1e-3, "betas": [0.5, 0.999], "weight_decay": 1e-4}

Batch = dict[str, dict[str, Tensor]]


def batches(count: int, size: int = 4, side: int = 32) -> list[Batch]:
    images = torch.rand(count, 2, size, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return [{"source": {"image": source}, "target": {"image": target}} for source, target in images]


def method(**options: Any) -> DRIT:
    torch.manual_seed(0)
    sizes = {"width": 4, "residuals": 1, "style_dim": 3, "content_layers": 0}
    discriminator = {"discriminator_width": 4, "discriminator_scales": 2, "discriminator_layers": 3}
    return DRIT(optimizer=ADAM, **{"max_iters": 6, **sizes, **discriminator, **options})


def fit(module: DRIT, content: list[Batch], folder: Path, **options: Any) -> None:
    path = options.pop("ckpt_path", None)
    trainer(folder, **options).fit(module, DataLoader(content, batch_size=None), ckpt_path=path, weights_only=True)


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (ContentEncoder(), 9_018_112),
        (nn.ModuleList(AttributeEncoder() for _ in range(2)), 2_688_160),
        (nn.ModuleList(PointAttributeEncoder() for _ in range(2)), 5_529_872),
        (ConcatGenerator(), 9_564_710),
        (FeatureWiseGenerator(), 17_146_374),
        (ContentDiscriminator(), 10_683_649),
    ],
)
def test_networks_have_the_official_number_of_parameters(network: nn.Module, count: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == count


def test_content_discriminators_tell_the_smallest_image() -> None:
    for layers, side in ((0, 4), (1, 11), (2, 25), (3, 53)):
        network = ContentDiscriminator(2, layers)
        assert network(torch.zeros(1, 2, side, side)).shape == (1, 1, 1, 1)
        with pytest.raises(UserError, match=rf"\b{4 * side}\b.*\b{4 * side - 4}x{4 * side}\b"):
            network(torch.zeros(1, 2, side - 1, side))


def test_content_is_noisy_in_training_alone() -> None:
    network, image = ContentEncoder(4, 1), torch.rand(1, 3, 32, 32)
    clean = network.eval()(image, "source")
    assert torch.equal(clean, network(image, "source"))
    noise = network.train()(image, "source") - clean
    assert (noise.mean().item(), noise.std().item()) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.1))


# -- terms -------------------------------------------------------------------------------------------------------------


def cross_entropy(score: Tensor, wanted: float) -> Tensor:
    probability = score.sigmoid()
    return -(wanted * probability.log() + (1 - wanted) * (1 - probability).log()).mean()


def scales(scores: list[Tensor], wanted: float) -> Tensor:
    return sum(cross_entropy(score, wanted) for score in scores)


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean()


def by_hand(module: DRIT, batch: Batch) -> list[dict[str, Tensor]]:
    """Weighted terms of a full iteration between whose updates nothing moves; a is the source, b the target."""
    a, b = (batch[domain]["image"][:2] for domain in ("source", "target"))
    real_a, real_b = (batch[domain]["image"][2:] for domain in ("source", "target"))

    def content(x: Tensor, domain: str) -> Tensor:
        return module.content_encoder(x, domain)

    def attribute(x: Tensor, domain: str) -> tuple[Tensor, Tensor]:
        """A code, and the weighted sum that is its KL term."""
        if not module.concat:
            code = module.attribute_encoders[domain](x)
            return code, 0.01 * (code**2).mean()
        mean, log_variance = module.attribute_encoders[domain](x)
        kl = [0.5 * (m**2 + v.exp() - 1 - v).sum() for m, v in zip(mean, log_variance, strict=True)]
        return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape), 0.01 * sum(kl) / len(kl)

    def image(content: Tensor, code: Tensor, domain: str) -> Tensor:
        return module.generator(content, code, domain)

    def score(x: Tensor, domain: str) -> list[Tensor]:
        return module.discriminators[domain](x)

    def score_random(x: Tensor, domain: str) -> list[Tensor]:
        return module.random_discriminators[domain](x)

    c_a, c_b = content(a, "source"), content(b, "target")
    (s_a, kl_a), (s_b, kl_b) = attribute(a, "source"), attribute(b, "target")
    fake_a, fake_b = image(c_b, s_a, "source"), image(c_a, s_b, "target")
    z, z2 = torch.randn(s_a.shape), torch.randn(s_a.shape)
    random_a, random2_a, random_b, random2_b = (
        image(c, noise, domain) for c, domain in ((c_b, "source"), (c_a, "target")) for noise in (z, z2)
    )
    discriminator = {
        "adversarial_source": scales(score(a, "source"), 1) + scales(score(fake_a, "source"), 0),
        "adversarial_target": scales(score(b, "target"), 1) + scales(score(fake_b, "target"), 0),
        "random_adversarial_source": 2 * scales(score_random(real_a, "source"), 1)
        + scales(score_random(random_a, "source"), 0)
        + scales(score_random(random2_a, "source"), 0),
        "random_adversarial_target": 2 * scales(score_random(real_b, "target"), 1)
        + scales(score_random(random_b, "target"), 0)
        + scales(score_random(random2_b, "target"), 0),
    }
    content_discriminator = {
        "source": cross_entropy(module.content_discriminator(c_a), 0),
        "target": cross_entropy(module.content_discriminator(c_b), 1),
    }

    again_b, again_a = content(fake_a, "source"), content(fake_b, "target")
    (s_again_a, _), (s_again_b, _) = attribute(fake_a, "source"), attribute(fake_b, "target")
    encoders_and_generator = {
        "adversarial_source": scales(score(fake_a, "source"), 1),
        "adversarial_target": scales(score(fake_b, "target"), 1),
        "content_source": cross_entropy(module.content_discriminator(c_a), 0.5),
        "content_target": cross_entropy(module.content_discriminator(c_b), 0.5),
        "kl_source": kl_a,
        "kl_target": kl_b,
        "content_kl_source": 0.01 * (c_a**2).mean(),
        "content_kl_target": 0.01 * (c_b**2).mean(),
        "cycle_source": 10 * distance(image(again_a, s_again_a, "source"), a),
        "cycle_target": 10 * distance(image(again_b, s_again_b, "target"), b),
        "reconstruction_source": 10 * distance(image(c_a, s_a, "source"), a),
        "reconstruction_target": 10 * distance(image(c_b, s_b, "target"), b),
    }

    c_a, c_b = content(a, "source"), content(b, "target")
    random_a, random2_a, random_b, random2_b = (
        image(c, noise, domain) for c, domain in ((c_b, "source"), (c_a, "target")) for noise in (z, z2)
    )
    generator_alone = {
        "random_adversarial_source": scales(score_random(random_a, "source"), 1)
        + scales(score_random(random2_a, "source"), 1),
        "random_adversarial_target": scales(score_random(random_b, "target"), 1)
        + scales(score_random(random2_b, "target"), 1),
        "regression_source": 10 * distance(module.encode_style(random_a, "source"), z),
        "regression_target": 10 * distance(module.encode_style(random_b, "target"), z),
        "mode_seeking_source": 1 / (distance(random2_a, random_a) / distance(z2, z) + 1e-5),
        "mode_seeking_target": 1 / (distance(random2_b, random_b) / distance(z2, z) + 1e-5),
    }
    return [discriminator, content_discriminator, encoders_and_generator, generator_alone]


@pytest.mark.parametrize("concat", [True, False])
def test_terms_equal_the_hand_written_ones(concat: bool) -> None:
    module, (batch,) = method(concat=concat, content_iters=0), batches(1)
    for parameter in module.parameters():  # first weights are so small that all translations would look alike
        nn.init.normal_(parameter, std=0.2)
    torch.manual_seed(5)
    updates = list(backwards(module, batch))
    assert [player for player, _ in updates] == ["discriminator", "content_discriminator", "generator", "generator"]
    torch.manual_seed(5)
    for (_, terms), expected in zip(updates, by_hand(module, batch), strict=True):
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(terms[name].weight * terms[name].value, value, rtol=1e-4, atol=1e-6, msg=name)


def test_without_mode_seeking_one_random_attribute_is_drawn() -> None:
    module, (batch,) = method(content_iters=0, mode_seeking_weight=0.0), batches(1)
    images = []
    for domain in ("source", "target"):
        module.random_discriminators[domain].register_forward_pre_hook(lambda _, given: images.append(len(given[0])))
    *_, (_, terms) = backwards(module, batch)
    assert not [name for name in terms if name.startswith("mode_seeking")]
    assert images == [4, 4, 2, 2]  # reals and fakes, then fakes, of each domain


def test_each_update_moves_its_own_networks() -> None:
    module, (batch,) = method(content_iters=0), batches(1)
    moved = []
    for _, terms in backwards(module, batch):
        module.zero_grad()
        sum(term.weight * term.value for term in terms.values()).backward()
        moved.append({name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None})
    assert moved == [
        {"discriminators", "random_discriminators"},
        {"content_discriminator"},
        {"content_encoder", "attribute_encoders", "generator"},
        {"content_encoder", "generator"},
    ]


def test_attributes_stay_out_of_the_second_step(tmp_path: Path) -> None:
    weights = {"adversarial_weight": 0.0, "cycle_weight": 0.0, "reconstruction_weight": 0.0, "kl_weight": 0.0}
    module = method(content_iters=0, max_iters=1, **weights)
    module.optimizer_options = {"name": "SGD", "lr": 0.1, "weight_decay": 0.1}
    before = [p.detach().clone() for p in module.attribute_encoders.parameters()]
    fit(module, batches(1), tmp_path)
    for old, new in zip(before, module.attribute_encoders.parameters(), strict=True):
        torch.testing.assert_close(new, 0.99 * old)  # decayed once, by the first step


# -- schedule ----------------------------------------------------------------------------------------------------------


def test_the_content_discriminator_trains_alone_two_times_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    module, (batch,) = method(), batches(1)
    players = []
    for iteration in range(6):
        monkeypatch.setattr(DRIT, "iteration", iteration)
        players.append([player for player, _ in backwards(module, batch)])
    alone, full = ["content_discriminator"], ["discriminator", "content_discriminator", "generator", "generator"]
    assert players == [alone, alone, full, alone, alone, full]


def test_the_content_discriminator_is_slower_and_clipped() -> None:
    module = method()
    assert {name: player.clip_norm for name, player in module.players().items()} == {
        "generator": None,
        "discriminator": None,
        "content_discriminator": 5.0,
    }
    rates = [configured["optimizer"].param_groups[0]["lr"] for configured in module.configure_optimizers()]
    assert rates == [1e-3, 1e-3, pytest.approx(4e-4)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("concat", [True, False])
def test_white_images_train_on(concat: bool, precision: str, tmp_path: Path) -> None:
    module, content = method(concat=concat), batches(6)
    for batch in content:
        batch["target"]["image"].fill_(1)
    fit(module, content, tmp_path, precision=precision)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module.translate(torch.rand(1, 3, 30, 45), "target").shape == (1, 3, 30, 45)


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    fit(method(), batches(3), tmp_path / "whole")
    fit(method(), batches(3), tmp_path / "rest", ckpt_path=tmp_path / "whole/checkpoints/epoch=0.ckpt")
    assert_same_training(tmp_path / "whole/checkpoints/last.ckpt", tmp_path / "rest/checkpoints/last.ckpt")


def test_attributes_are_encoded_without_noise() -> None:
    module, image = method().eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(module.encode_style(image, "source"), module.attribute_encoders["source"](image)[0])
    style = torch.randn(2, 3)
    assert torch.equal(module.translate(image, "target", style), module.translate(image, "target", style))
    assert not torch.equal(module.translate(image, "target"), module.translate(image, "target"))


def test_what_cannot_be_trained_is_told() -> None:
    with pytest.raises(UserError, match="method.accumulate=1 for DRIT"):
        method(accumulate=2)
    with pytest.raises(UserError, match="at least two images"):
        next(backwards(method(), batches(1, size=1)[0]))


# -- official files ----------------------------------------------------------------------------------------------------

FEATURE_WISE = {
    "enc_c.convB.3.model.5.weight": "content_encoder.own.target.3.5.weight",
    "enc_a.model_b.16.bias": "attribute_encoders.target.features.16.bias",
    "gen.mlpA.4.bias": "generator.mlps.source.4.bias",
    "gen.decA1.conv1.0.1.weight": "generator.stages.source.0.conv1.0.1.weight",
    "gen.decB2.blk2.2.bias": "generator.stages.target.1.blk2.2.bias",
    "gen.decB5.0.model.1.weight": "generator.stages.target.4.0.1.weight",
    "gen.decA5.2.bias": "generator.stages.source.4.2.bias",
}


def test_names_of_the_feature_wise_variant() -> None:
    module = method(concat=False, residuals=3)
    for official, own in FEATURE_WISE.items():
        network, _, rest = official.partition(".")
        assert list(official_state({network: {rest: torch.zeros(2)}, "gen_opt": {"state": {}}, "ep": 1})) == [own]
        assert own in module.state_dict()


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    torch.save({"gen": {"dec_share.0.model.1.weight": torch.zeros(16, 16, 3, 3)}, "ep": 1}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"generator\.shared\.0\.1\.bias"):
        method(init_from=str(tmp_path / "part.pth"))


def test_weights_of_a_checkpoint_of_ours_are_read(tmp_path: Path) -> None:
    module = method(max_iters=1)
    fit(module, batches(1), tmp_path)
    begun = method(init_from=str(tmp_path / "checkpoints/last.ckpt"))
    assert_same(dict(begun.state_dict()), dict(module.state_dict()))
