"""SPGAN: its embedding, its loss written out pair by pair, its schedule, and the files it leaves."""

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_people import TinyPeople
from tiny_runs import assert_same, assert_same_training, backwards, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.io import read_image

from da_lightning.errors import UserError
from da_lightning.files import part_of
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.networks.siamese import SiaNet
from da_lightning.reid.spgan import SPGAN
from da_lightning.reid.translated import WholeImages, WriteTranslations
from da_lightning.seeds import mixed_seed
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.module import as_uint8

SGD = {"name": "SGD", "lr": 0.001, "momentum": 0.9}
SIZE, CROP = (28, 32), (24, 28)
SIZES = {"width": 4, "residuals": 1, "discriminator_width": 4, "siamese_width": 4, "siamese_embedding": 8}

Batch = dict[str, dict[str, Tensor]]


def batches(count: int, size: int = 2) -> list[Batch]:
    images = torch.rand(count, 2, size, 3, 24, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return [{"source": {"image": source}, "target": {"image": target}} for source, target in images]


def method(**options: Any) -> SPGAN:
    torch.manual_seed(0)
    return SPGAN(**{"optimizer": SGD, "max_iters": 6, "image_size": (24, 24), **SIZES, **options})


def people(**options: Any) -> UnpairedImages:
    source, target = TinyPeople([1, 2, 5] * 3, SIZE, labelled=True), TinyPeople([3, 4] * 4, SIZE)
    options = {"image_size": None, "crop_size": CROP, "batch_size": 2, "eval_batch_size": 4, **options}
    return UnpairedImages(source, target, **options)


# -- embedding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "flat"),
    [
        ((256, 128), 4 * 2 * 256),  # as the official code has it
        ((128, 64), 2 * 1 * 256),
        ((96, 48), 3 * 1 * 256),
        ((64, 32), 2 * 1 * 256),
        ((256, 256), 4 * 4 * 256),
        ((8, 9), 1 * 1 * 256),
    ],
)
def test_embeddings_of_any_size(size: tuple[int, int], flat: int) -> None:
    network = SiaNet(size)
    assert network.fc1.in_features == flat
    embedding = network(torch.rand(2, 3, *size))
    assert embedding.shape == (2, 64)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_poolings_are_left_out_where_sides_would_vanish_alone() -> None:
    def poolings(size: tuple[int, int], blocks: int = 3) -> int:
        return sum(isinstance(layer, nn.MaxPool2d) for layer in SiaNet(size, blocks, width=2).modules())

    sizes = [(256, 128), (128, 64), (96, 48), (64, 32), (16, 16), (8, 8)]
    assert [poolings(size) for size in sizes] == [3, 3, 2, 2, 1, 0]
    assert poolings((256, 256), blocks=4) == 4
    with pytest.raises(UserError, match=r"16x16.*method\.siamese_blocks=4\b.*12x20"):
        SiaNet((12, 20), blocks=4)


def test_embedding_of_the_paper() -> None:
    network = SiaNet((256, 256), blocks=4, hidden=None, embedding=128)
    widths = [(3, 64), (64, 128), (128, 256), (256, 512)]
    count = sum(wide * (narrow * 16 + 1) for narrow, wide in widths) + 512 * 128
    assert sum(p.numel() for p in network.parameters()) == count


def test_images_of_another_size_than_the_embeddings_are_told() -> None:
    with pytest.raises(UserError, match=r"\(64, 32\).*\(32, 64\)"):
        SiaNet((64, 32), width=2)(torch.zeros(1, 3, 32, 64))


# -- loss --------------------------------------------------------------------------------------------------------------


def pair_by_pair(module: SPGAN, batch: Batch) -> tuple[float, float]:
    """The contrastive losses of generators and SiaNet, one pair after the other, as the fact tables have them."""
    into_target, into_source = module.generators["target"], module.generators["source"]

    def embedded(image: Tensor) -> Tensor:
        return module.siamese(image[None])[0]

    def distance(one: Tensor, other: Tensor) -> float:
        return (embedded(one) - embedded(other)).square().sum().sqrt().item()

    def negative(one: Tensor, other: Tensor) -> float:
        return max(0.0, module.margin - distance(one, other)) ** 2

    of_generators, of_siamese = [], []
    for source, target in zip(batch["source"]["image"], batch["target"]["image"], strict=True):
        as_target, as_source = into_target(source[None])[0], into_source(target[None])[0]
        positive = distance(source, as_target) ** 2 + distance(target, as_source) ** 2
        translated = negative(as_target, target) + negative(as_source, source)
        original = negative(source, target)
        of_generators.append(
            {
                "paper": positive + translated,
                "tf_demo": (positive + 2 * original) / 3,
                "pytorch": (positive + 0.5 * translated) / 4,
            }[module.negatives]
        )
        of_siamese.append(positive + translated if module.negatives == "paper" else (positive + 2 * original) / 3)
    return sum(of_generators) / len(of_generators), sum(of_siamese) / len(of_siamese)


def total(terms: dict[str, Any]) -> Tensor:
    return torch.stack([term.weight * term.value for term in terms.values()]).sum()


@pytest.mark.parametrize("margin", [2.0, 1.0, 0.05])
@pytest.mark.parametrize("negatives", ["paper", "tf_demo", "pytorch"])
def test_contrastive_loss_is_that_of_the_pairs(negatives: str, margin: float) -> None:
    module, (batch,) = method(negatives=negatives, margin=margin).eval(), batches(1, size=3)
    real = module.images(batch)
    with torch.no_grad():
        fake = module.fakes(real)
        found = [
            total(module.contrastive_terms("generator", real, fake, weight=2.0)).item() / 2,
            total(module.contrastive_terms("siamese", real, fake)).item(),
        ]
        assert found == pytest.approx(pair_by_pair(module, batch), rel=1e-5)


def test_real_pairs_do_not_move_the_generators() -> None:
    for negatives, moves in (("tf_demo", False), ("pytorch", True), ("paper", True)):
        module, (batch,) = method(negatives=negatives), batches(1)
        real = module.images(batch)
        term = module.contrastive_terms("generator", real, module.fakes(real))["dissimilarity"]
        (gradient,) = torch.autograd.grad(term.value, module.generators["target"][-2].bias)
        assert gradient.any() == moves


def test_each_player_moves_its_own_networks_and_dropout_stays_on() -> None:
    module, (batch,) = method(siamese_from=0, contrastive_from=0), batches(1)
    calls = []
    module.siamese.fc2.register_forward_pre_hook(lambda _, given: calls.append(bool((given[0] == 0).any())))
    for player, terms in backwards(module, batch):
        module.zero_grad()
        total(terms).backward()
        moved = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
        assert moved == {{"siamese": "siamese"}.get(player, f"{player}s")}
    assert calls == [True, True]


# -- schedule ----------------------------------------------------------------------------------------------------------


def test_who_is_up_when(monkeypatch: pytest.MonkeyPatch) -> None:
    (batch,) = batches(1)
    module, seen = method(max_iters=20, siamese_from=0.1, contrastive_from=0.2), []
    for iteration in range(6):
        monkeypatch.setattr(SPGAN, "iteration", iteration)
        seen.append({player: "similarity" in terms for player, terms in backwards(module, batch)})
    generator, siamese, discriminator = {"generator": False}, {"siamese": True}, {"discriminator": False}
    assert seen == [
        generator | discriminator,
        discriminator,
        generator | siamese | discriminator,
        siamese | discriminator,
        {"generator": True} | siamese | discriminator,
        siamese | discriminator,
    ]
    assert [list(players) for players in (seen[1], seen[4])] == [
        ["discriminator"],
        ["generator", "siamese", "discriminator"],
    ]


def test_accumulated_batches_are_refused() -> None:
    with pytest.raises(UserError, match="method.accumulate=1 for SPGAN"):
        method(accumulate=2)


def by_hand(module: SPGAN, content: list[Batch]) -> None:
    """The official order, call by call: generators each second step, SiaNet, discriminators."""
    into_source, into_target = module.generators["source"], module.generators["target"]
    judge_source, judge_target, embed = module.discriminators["source"], module.discriminators["target"], module.siamese
    parts = module.generators, module.siamese, module.discriminators
    generators, siamese, judges = (torch.optim.SGD(part.parameters(), lr=0.001, momentum=0.9) for part in parts)

    def apart(one: Tensor, other: Tensor) -> Tensor:
        return (embed(one) - embed(other)).square().sum(1)

    def near(one: Tensor, other: Tensor) -> Tensor:
        return (2 - apart(one, other).sqrt()).clamp(min=0) ** 2

    for iteration, batch in enumerate(content):
        torch.manual_seed(mixed_seed(0, iteration, 0))
        source, target = batch["source"]["image"], batch["target"]["image"]
        as_target, as_source = into_target(source), into_source(target)
        if iteration % 2 == 0:
            loss = ((judge_target(as_target) - 1) ** 2).mean() + ((judge_source(as_source) - 1) ** 2).mean()
            loss = loss + 10 * (into_source(as_target) - source).abs().mean()
            loss = loss + 10 * (into_target(as_source) - target).abs().mean()
            loss = loss + 5 * (into_target(target) - target).abs().mean()
            loss = loss + 5 * (into_source(source) - source).abs().mean()
            if iteration >= 2:
                positive = apart(source, as_target) + apart(target, as_source)
                negative = near(as_target, target) + near(as_source, source)
                loss = loss + 2 * ((positive + 0.5 * negative) / 4).mean()
            generators.zero_grad()
            loss.backward()
            generators.step()
        as_target, as_source = as_target.detach(), as_source.detach()
        if iteration >= 1:
            positive = apart(source, as_target) + apart(target, as_source)
            siamese.zero_grad()
            ((positive + 2 * near(source, target)) / 3).mean().backward()
            siamese.step()
        judges.zero_grad()
        for judge, real, fake in ((judge_source, source, as_source), (judge_target, target, as_target)):
            (0.5 * ((judge(real) - 1) ** 2).mean() + 0.5 * (judge(fake) ** 2).mean()).backward()
        judges.step()


def test_training_equals_the_hand_written_one(tmp_path: Path) -> None:
    options = {"siamese_hidden": None, "pool_size": 0, "siamese_from": 0.25, "contrastive_from": 0.5}  # no dropout
    module, content = method(max_iters=4, decay_from=4, **options), batches(4)
    for parameter in module.parameters():  # official ones are so small that rounding errors grow a hundredfold a step
        nn.init.normal_(parameter, std=0.3)
    expected = deepcopy(module)
    by_hand(expected, content)
    trainer(tmp_path).fit(module, DataLoader(content, batch_size=None))
    for (name, value), wanted in zip(module.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_white_images_train_on(tmp_path: Path) -> None:
    module, content = method(siamese_from=0, contrastive_from=0, max_iters=3), batches(3)
    for batch in content:
        batch["source"]["image"].fill_(1)
        batch["target"]["image"].fill_(1)
    trainer(tmp_path, precision="bf16-mixed").fit(module, DataLoader(content, batch_size=None))
    assert all(p.isfinite().all() for p in module.parameters())


# -- people in, files out ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SPGAN, Path]:
    folder = tmp_path_factory.mktemp("spgan")
    module = method(image_size=CROP)
    trainer(folder, WriteTranslations(count=3)).fit(module, people(iterations_per_epoch=2))
    return module, folder


def written(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".made_by"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_image_size_is_taken_from_the_data_and_kept(trained: tuple[SPGAN, Path]) -> None:
    module, folder = trained
    assert people().facts.options(SPGAN, {}) == {"image_size": CROP} == {"image_size": module.hparams["image_size"]}
    rebuilt = SPGAN.load_from_checkpoint(folder / "checkpoints/last.ckpt")
    assert_same(dict(rebuilt.state_dict()), dict(module.state_dict()))


def test_it_goes_on_bit_for_bit(trained: tuple[SPGAN, Path], tmp_path: Path) -> None:
    checkpoints = trained[1] / "checkpoints"
    rest = method(image_size=CROP)
    trainer(tmp_path).fit(
        rest, people(iterations_per_epoch=2), ckpt_path=checkpoints / "epoch=0.ckpt", weights_only=True
    )
    assert_same_training(tmp_path / "checkpoints/last.ckpt", checkpoints / "last.ckpt")


def test_weights_of_a_checkpoint_are_a_beginning(trained: tuple[SPGAN, Path], tmp_path: Path) -> None:
    module, folder = trained
    begun = method(image_size=CROP, init_from=str(folder / "checkpoints/last.ckpt"))
    assert_same(dict(begun.state_dict()), dict(module.state_dict()))


def test_the_source_is_written_in_the_style_of_the_target(trained: tuple[SPGAN, Path]) -> None:
    module, folder = trained
    dataset = people().source_view.dataset
    assert set(written(folder / "translated")) == {f"{dataset.name(i)}.png" for i in range(len(dataset))}
    view = WholeImages(people().source_view)
    for index in range(len(view)):
        image = view[index]["image"]
        assert image.shape == (3, *CROP)
        with torch.inference_mode():
            expected = as_uint8(module.translate(image[None], "target"))[0]
        found = read_image(str(folder / "translated" / f"{dataset.name(index)}.png"))
        assert (found.int() - expected.int()).abs().max() <= 1  # batches of another size may round otherwise
    strip = read_image(str(folder / "pictures/translations.png"))
    (height, width), gap = CROP, 2
    assert strip.shape == (3, 2 * (height + gap) + gap, 3 * (width + gap) + gap)
    for column, index in enumerate((0, 4, 8)):
        found = strip[:, gap : gap + height, gap + column * (width + gap) :][..., :width]
        assert torch.equal(found, as_uint8(view[index]["image"]))


def finish(folder: Path, root: Path, module: SPGAN, **options: Any) -> int:
    """Go on with a training that is finished; how many iterations it took."""
    count = Count()
    goes_on = trainer(root, WriteTranslations(**options), count)
    goes_on.fit(module, people(iterations_per_epoch=2), ckpt_path=folder / "checkpoints/last.ckpt", weights_only=True)
    return count.batches


class Count(L.Callback):
    batches = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.batches += 1


def test_a_killed_run_writes_what_is_missing(trained: tuple[SPGAN, Path], tmp_path: Path) -> None:
    folder = trained[1]
    root = tmp_path / "run"
    assert finish(folder, root, method(image_size=CROP)) == 0  # as the first: its weights are the checkpoint's
    assert written(root / "translated") == written(folder / "translated")
    *kept, lost, broken = sorted((root / "translated").rglob("*.png"))
    times = {file: file.stat().st_mtime_ns for file in kept}
    whole = lost.read_bytes()
    lost.unlink()
    broken.rename(part_of(broken))
    assert finish(folder, root, method(image_size=CROP)) == 0
    assert lost.read_bytes() == whole
    assert {file: file.stat().st_mtime_ns for file in kept} == times
    assert written(root / "translated") == written(folder / "translated")


def test_files_of_other_weights_or_sizes_are_not_kept(trained: tuple[SPGAN, Path], tmp_path: Path) -> None:
    folder = trained[1]
    trainer(tmp_path, WriteTranslations()).fit(method(max_iters=2, image_size=CROP), people(iterations_per_epoch=2))
    first = written(tmp_path / "translated")
    finish(folder, tmp_path, method(image_size=CROP))
    second = written(tmp_path / "translated")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)
    finish(folder, tmp_path, method(image_size=CROP), original_size=True)
    assert all(read_image(str(file)).shape == (3, *SIZE) for file in (tmp_path / "translated").rglob("*.png"))


def test_ranks_share_the_work(trained: tuple[SPGAN, Path], tmp_path: Path) -> None:
    module, data = trained[0], people()
    names = [data.source_view.dataset.name(index) for index in range(9)]
    for rank, share in ((0, names[::2]), (1, names)):
        alone = SimpleNamespace(
            global_rank=rank,
            world_size=2,
            is_global_zero=rank == 0,
            default_root_dir=str(tmp_path),
            datamodule=data,
            loggers=[],
            callbacks=[],
            strategy=SimpleNamespace(barrier=lambda: None, reduce_boolean_decision=lambda decision, all: decision),
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
        )
        WriteTranslations().on_train_end(alone, module)
        assert set(written(tmp_path / "translated")) == {f"{name}.png" for name in share}


def test_other_data_are_told(tmp_path: Path) -> None:
    fit = trainer(tmp_path, WriteTranslations())
    with pytest.raises(UserError, match="UnpairedImages.*NoneType"):
        fit.fit(method(max_iters=1), DataLoader(batches(1), batch_size=None))


def test_data_of_re_identification_are_refused_before_training(tmp_path: Path) -> None:
    data = PersonDataModule(TinyPeople([1, 2, 5], SIZE, labelled=True), TinyPeople([3, 4], SIZE), image_size=CROP)
    with pytest.raises(UserError, match="UnpairedImages.*PersonDataModule"):
        trainer(tmp_path).fit(method(max_iters=1, image_size=CROP), data)
