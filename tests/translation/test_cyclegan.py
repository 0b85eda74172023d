"""CycleGAN against the same iterations written out in plain torch, its checkpoints and official files."""

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
from da_lightning.translation.cyclegan import CycleGAN
from da_lightning.translation.networks.cyclegan import PatchDiscriminator, ResnetGenerator, UnetGenerator

# Biases before a norm have no gradient but rounding, which Adam would make steps of.
SGD = {"name": "SGD", "lr": 0.001, "momentum": 0.9}

Batch = dict[str, dict[str, Tensor]]


def batches(count: int, size: int = 1, side: int = 24) -> list[Batch]:
    images = torch.rand(count, 2, size, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return [{"source": {"image": source}, "target": {"image": target}} for source, target in images]


def method(**options: Any) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(optimizer=SGD, **{"max_iters": 6, "width": 4, "residuals": 1, "discriminator_width": 4, **options})


def fit(module: CycleGAN, content: list[Batch], folder: Path, **options: Any) -> None:
    path = options.pop("ckpt_path", None)
    trainer(folder, **options).fit(module, DataLoader(content, batch_size=None), ckpt_path=path, weights_only=True)


def squares(score: Tensor, wanted: float) -> Tensor:
    return ((score - wanted) ** 2).mean()


def cross_entropy(score: Tensor, wanted: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, wanted))


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (ResnetGenerator(), 11_378_179),
        (ResnetGenerator(residuals=6), 7_837_699),
        (PatchDiscriminator(), 2_764_737),
    ],
)
def test_networks_have_the_official_number_of_parameters(network: nn.Module, count: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == count


def test_shapes() -> None:
    image = torch.zeros(2, 3, 32, 48)
    for generator in (ResnetGenerator(4, 1), UnetGenerator(4, 4)):
        assert generator(image).shape == image.shape
    assert PatchDiscriminator(4)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    with pytest.raises(UserError, match="24x24.*16x48"):
        PatchDiscriminator(4)(image[:, :, :16])


def test_unet_equals_nested_layers_written_out() -> None:
    torch.manual_seed(0)
    network = UnetGenerator(4, 3)
    outer, middle, _, up, _ = network.children()
    inner = middle[3]

    def norm(maps: Tensor) -> Tensor:
        return F.instance_norm(maps)

    image = torch.rand(2, 3, 16, 16)
    one = outer(image)
    two = norm(middle[1](F.leaky_relu(one, 0.2)))
    three = inner[1](F.leaky_relu(two, 0.2))
    back = norm(inner[3](F.relu(three)))
    back = norm(middle[5](F.relu(torch.cat([two, back], 1))))
    expected = torch.tanh(up(F.relu(torch.cat([one, back], 1))))
    torch.testing.assert_close(network(image), expected)


def test_first_weights_are_the_official_ones() -> None:
    module = method(width=16)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.numel() > 5000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)


# -- training ----------------------------------------------------------------------------------------------------------


class ListPool:
    """The history as the paper tells it, for batches of one."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.kept = capacity, []

    def __call__(self, fake: Tensor) -> Tensor:
        if len(self.kept) < self.capacity:
            self.kept.append(fake)
        elif torch.rand(()) >= 0.5:
            place = int(torch.randint(self.capacity, ()))
            fake, self.kept[place] = self.kept[place], fake
        return fake


def by_hand(module: CycleGAN, content: list[Batch], gan) -> None:
    """The official order: generators first, then discriminators on what the generators made before."""
    into_source, into_target = module.generators["source"], module.generators["target"]
    judge_source, judge_target = module.discriminators["source"], module.discriminators["target"]
    generators = torch.optim.SGD(module.generators.parameters(), lr=0.001, momentum=0.9)
    judges = torch.optim.SGD(module.discriminators.parameters(), lr=0.001, momentum=0.9)
    pools = ListPool(1), ListPool(1)
    for iteration, batch in enumerate(content):
        torch.manual_seed(mixed_seed(0, iteration, 0))
        for optimizer in (generators, judges):
            optimizer.param_groups[0]["lr"] = 0.001 * (1 if iteration <= 2 else 1 - (iteration - 2) / 2)
        source, target = batch["source"]["image"], batch["target"]["image"]
        fake_target, fake_source = into_target(source), into_source(target)
        loss = gan(judge_target(fake_target), 1.0) + gan(judge_source(fake_source), 1.0)
        loss = (
            loss + 10 * F.l1_loss(into_source(fake_target), source) + 10 * F.l1_loss(into_target(fake_source), target)
        )
        loss = loss + 5 * F.l1_loss(into_source(source), source) + 5 * F.l1_loss(into_target(target), target)
        generators.zero_grad()
        loss.backward()
        generators.step()

        judges.zero_grad()
        for judge, real, fake, pool in (
            (judge_source, source, fake_source, pools[0]),
            (judge_target, target, fake_target, pools[1]),
        ):
            (0.5 * (gan(judge(real), 1.0) + gan(judge(pool(fake.detach())), 0.0))).backward()
        judges.step()


@pytest.mark.parametrize(("gan", "written_out"), [("least_squares", squares), ("vanilla", cross_entropy)])
def test_training_equals_the_hand_written_one(gan: str, written_out, tmp_path: Path) -> None:
    module, content = method(gan=gan, pool_size=1, max_iters=4), batches(4)
    for parameter in module.parameters():  # official ones are so small that rounding errors grow a hundredfold a step
        nn.init.normal_(parameter, std=0.3)
    expected = deepcopy(module)
    by_hand(expected, content, written_out)
    fit(module, content, tmp_path)
    for (name, value), wanted in zip(module.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_terms_are_those_of_the_networks_outputs() -> None:
    module, (batch,) = method(pool_size=0), batches(1, size=2)
    (player, terms), (judge, judged) = backwards(module, batch)
    assert (player, judge) == ("generator", "discriminator")
    images = {domain: sample["image"] for domain, sample in batch.items()}
    expected, expected_of_judge = {}, {}
    for domain, across in (("source", "target"), ("target", "source")):
        into, back = module.generators[domain], module.generators[across]
        score = module.discriminators[domain]
        expected |= {
            f"identity_{domain}": (F.l1_loss(into(images[domain]), images[domain]), 5.0),
            f"cycle_{domain}": (F.l1_loss(into(back(images[domain])), images[domain]), 10.0),
            f"adversarial_{domain}": (squares(score(into(images[across])), 1.0), 1.0),
        }
        expected_of_judge |= {
            f"real_{domain}": (squares(score(images[domain]), 1.0), 0.5),
            f"fake_{domain}": (squares(score(into(images[across])), 0.0), 0.5),
        }
    for got, wanted in ((terms, expected), (judged, expected_of_judge)):
        assert got.keys() == wanted.keys()
        for name, (value, weight) in wanted.items():
            torch.testing.assert_close(got[name].value, value)
            assert got[name].weight == weight


def test_each_player_moves_its_own_networks() -> None:
    module, (batch,) = method(), batches(1)
    for player, terms in backwards(module, batch):
        module.zero_grad()
        sum(term.weight * term.value for term in terms.values()).backward()
        moved = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
        assert moved == {f"{player}s"}


def test_an_identity_term_of_weight_0_is_not_computed() -> None:
    (batch,) = batches(1)
    images = {}
    for weight in (5.0, 0.0):
        module, images[weight] = method(identity_weight=weight), 0
        for generator in module.generators.values():

            def count(_, arguments: tuple[Tensor], weight: float = weight) -> None:
                images[weight] += len(arguments[0])

            generator.register_forward_pre_hook(count)
        _, terms = next(backwards(module, batch))
        assert any(name.startswith("identity") for name in terms) == bool(weight)
    assert images == {5.0: 6, 0.0: 4}


def test_learning_rates_stay_then_fall_to_0() -> None:
    assert [method(max_iters=8).schedule(n) for n in (0, 4, 5, 6, 8)] == [1, 1, 0.75, 0.5, 0]
    assert [method(max_iters=8, decay_from=6).schedule(n) for n in (6, 7, 8)] == [1, 0.5, 0]
    assert [method(max_iters=8, decay_from=8).schedule(n) for n in (7, 8)] == [1, 1]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("generator", ["resnet", "unet"])
def test_white_images_train_on(generator: str, precision: str, tmp_path: Path) -> None:
    module, content = method(generator=generator, halvings=3), batches(6)
    for batch in content:
        batch["source"]["image"].fill_(1)
    fit(module, content, tmp_path, precision=precision)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module.translate(torch.rand(1, 3, 30, 45), "target").shape == (1, 3, 30, 45)


def test_sides_that_no_translation_would_have_are_told() -> None:
    with pytest.raises(UserError, match=r"\b4\b.*26x26"):
        next(backwards(method(), batches(1, side=26)[0]))
    with pytest.raises(UserError, match="multiples of 16"):
        next(backwards(method(generator="unet", halvings=4), batches(1)[0]))
    with pytest.raises(UserError, match=r"^method\.halvings=1\b.*\b2\b.*\.$"):
        method(generator="unet", halvings=1)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_weights_and_pools_go_on_bit_for_bit(tmp_path: Path) -> None:
    whole, rest = method(pool_size=2), method(pool_size=2)
    fit(whole, batches(3), tmp_path / "whole")
    fit(rest, batches(3), tmp_path / "rest", ckpt_path=tmp_path / "whole/checkpoints/epoch=0.ckpt")
    assert_same_training(tmp_path / "whole/checkpoints/last.ckpt", tmp_path / "rest/checkpoints/last.ckpt")
    pools = [{domain: pool.images for domain, pool in module.pools.items()} for module in (whole, rest)]
    assert len(pools[0]["source"]) == 2
    assert_same(*pools)


def test_each_rank_gets_its_own_pool_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, saved = [method(), method()], {"hyper_parameters": {}}
    for rank, module in enumerate(ranks):
        module.pools["source"].swap(torch.full((3, 3, 2, 2), float(rank)))
    monkeypatch.setattr(CycleGAN, "all_gather", lambda _, mine: torch.stack([mine, mine + 1]))
    ranks[0].on_save_checkpoint(saved)
    for rank, module in enumerate(ranks):
        resumed = method()
        monkeypatch.setattr(CycleGAN, "global_rank", rank)
        resumed.on_load_checkpoint(saved)
        assert_same(resumed.pools["source"].images, module.pools["source"].images)
        assert not resumed.pools["target"].images


def official_name(name: str) -> str:
    """As the official files have it: layers in ``model``, those of residual blocks in ``conv_block``."""
    layer, *rest = name.split(".")
    return ".".join(["model", layer, *(["conv_block"] if len(rest) == 2 else []), *rest])


def write_official(module: CycleGAN, folder: Path) -> None:
    for part, networks in (("G", module.generators), ("D", module.discriminators)):
        for letter, domain in (("A", "target"), ("B", "source")):
            state = {official_name(name): value for name, value in networks[domain].state_dict().items()}
            state["model.2.running_mean"] = torch.zeros(4)  # of torch before 0.4
            torch.save(state, folder / f"latest_net_{part}_{letter}.pth")


def test_official_files_are_read(tmp_path: Path) -> None:
    theirs = method()
    write_official(theirs, tmp_path)
    torch.manual_seed(1)
    whole = CycleGAN(init_from=str(tmp_path), **{k: v for k, v in theirs.hparams.items() if k != "init_from"})
    assert_same(dict(whole.state_dict()), dict(theirs.state_dict()))

    one = method(init_from=str(tmp_path / "latest_net_G_B.pth"))
    assert_same(dict(one.generators["source"].state_dict()), dict(theirs.generators["source"].state_dict()))
    assert "model.1.conv_block.3.weight" not in map(official_name, one.generators["source"].state_dict())

    (tmp_path / "latest_net_G_A.pth").rename(tmp_path / "horse2zebra_net_G.pth")  # as the official models are published
    lone = method(init_from=str(tmp_path / "horse2zebra_net_G.pth"))
    assert_same(dict(lone.generators["target"].state_dict()), dict(theirs.generators["target"].state_dict()))


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="latest_net_G_A.pth and the like"):
        method(init_from=str(tmp_path))
    write_official(method(residuals=2), tmp_path)
    with pytest.raises(CheckpointError, match=r"ResnetGenerator.*latest_net_G_A\.pth.*11\.1\.weight"):
        method(init_from=str(tmp_path / "latest_net_G_A.pth"))


def test_weights_of_a_checkpoint_of_ours_are_read(tmp_path: Path) -> None:
    module = method(max_iters=1)
    fit(module, batches(1), tmp_path)
    begun = method(init_from=str(tmp_path / "checkpoints/last.ckpt"))
    assert_same(dict(begun.state_dict()), dict(module.state_dict()))
    fit(begun, batches(1), tmp_path / "again")
    (tmp_path / "checkpoints/last.ckpt").unlink()
    assert CycleGAN.load_from_checkpoint(tmp_path / "again/checkpoints/last.ckpt").hparams["init_from"] is None
