"""Batch norm by domain: each domain's own copy, whose the rest is, and how weights go in and out."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from omegaconf import OmegaConf
from tiny_runs import assert_same, assert_same_training, composed, tiny, trainer, trainer_of_two
from tiny_teachers import MeanTeacher, WriteState, built_teacher
from torch import Tensor, nn

from da_lightning.config.build import build
from da_lightning.errors import UserError
from da_lightning.export import write
from da_lightning.predict import load_method
from da_lightning.reid.networks.light import LightBackbone
from da_lightning.reid.networks.resnet import ResNetBackbone
from da_lightning.reid.source_only import ReidSourceOnly
from da_lightning.segmentation.networks.deeplab import DeepLabV2
from da_lightning.segmentation.networks.light import LightNet
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.training.callbacks import ChannelsLast
from da_lightning.training.norms import DomainNorm, check_plain_norms, folded, separate_norms, source_norms
from da_lightning.training.players import Backward, Batch, Step, Term, Updates
from da_lightning.training.teacher import Teacher


class Plain(nn.Sequential):
    """Batch norms of both kinds, the last with a frozen bias; neither weights nor statistics are the default ones."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)),
            nn.Linear(5, 2),
        )
        self[5].bias.requires_grad_(False)
        for norm in (self[1], self[5]):
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value.data.uniform_(0.5, 1.5)


def separate() -> nn.Module:
    return separate_norms(Plain())


def images(domain: str) -> Tensor:
    drawn = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(len(domain)))
    return 2 * drawn + 1 if domain == "source" else drawn


def norms(network: nn.Module, domain: str) -> list[nn.Module]:
    return [getattr(part, domain) for part in network.modules() if isinstance(part, DomainNorm)]


def passed(network: nn.Module, domain: str) -> Tensor:
    if domain == "target":
        return network(images("target"))
    with source_norms(network):
        return network(images("source"))


def test_each_domain_is_normalised_and_tracked_by_its_own() -> None:
    network = separate()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    plain = {"source": Plain(), "target": Plain()}
    for _ in range(3):
        for domain, alone in plain.items():
            output, expected = passed(network, domain), alone(images(domain))
            torch.testing.assert_close(output, expected)
            output.square().mean().backward()
            expected.square().mean().backward()
        for domain, alone in plain.items():
            pairs = zip(norms(network, domain), (alone[1], alone[5]), strict=True)
            for own, norm in pairs:
                torch.testing.assert_close(own.weight.grad, norm.weight.grad)
                torch.testing.assert_close(dict(own.named_buffers()), dict(norm.named_buffers()))
        for shared in (0, 4, 6):
            both = plain["source"][shared].weight.grad + plain["target"][shared].weight.grad
            torch.testing.assert_close(network[shared].weight.grad, both)
        optimizer.step()
        optimizer.zero_grad()
        for domain, alone in plain.items():
            with torch.no_grad():
                for number in (0, 4, 6):
                    alone[number].load_state_dict(network[number].state_dict())
                for own, norm in zip(norms(network, domain), (alone[1], alone[5]), strict=True):
                    norm.load_state_dict(own.state_dict())
            alone.zero_grad()


def test_eval_is_by_the_target_unless_a_switch_says_source() -> None:
    network, plain = separate(), {"source": Plain(), "target": Plain()}
    for domain, alone in plain.items():
        passed(network, domain)
        alone(images(domain))
        alone.eval()
    network.eval()
    x = images("source")
    assert torch.equal(network(x), plain["target"](x))
    with source_norms(network):
        assert torch.equal(network(x), plain["target"](x))
        with source_norms(network, in_eval=True):
            assert torch.equal(network(x), plain["source"](x))
        assert torch.equal(network(x), plain["target"](x))
    teacher = Teacher(network.train())
    assert torch.equal(teacher(x), plain["target"].train()(x))


def test_a_bias_that_is_frozen_stays_frozen() -> None:
    found = {name for name, p in separate().named_parameters() if "." in name and not p.requires_grad}
    assert found == {"5.source.bias", "5.target.bias"}


def test_plain_weights_fill_both_and_folded_ones_are_the_targets() -> None:
    plain, network = Plain(), separate()
    passed(network, "source"), passed(network, "target")
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(plain.state_dict())
    for part in norms(network, "source") + norms(network, "target"):
        assert_same(dict(part.state_dict()), dict(plain[1 if part.num_features == 4 else 5].state_dict()))
    network.load_state_dict(trained)
    assert_same(dict(network.state_dict()), trained)
    with pytest.raises(RuntimeError, match=r"Missing key.*1.target.weight"):
        network.load_state_dict({name: value for name, value in plain.state_dict().items() if name != "1.weight"})
    plain.load_state_dict(folded(network.state_dict()))
    assert torch.equal(plain.eval()(images("source")), network.eval()(images("source")))
    assert_same(folded(plain.state_dict()), dict(plain.state_dict()))


def test_names_like_those_of_domains_are_left_alone() -> None:
    pair = nn.ModuleDict({"source": nn.Sequential(nn.BatchNorm2d(2)), "target": nn.Sequential(nn.BatchNorm2d(2))})
    assert_same(folded(pair.state_dict()), dict(pair.state_dict()))


def test_a_batch_norm_alone_and_a_shared_one() -> None:
    alone = separate_norms(nn.BatchNorm1d(3))
    assert isinstance(alone, DomainNorm)
    assert_same(folded(alone.state_dict()), dict(nn.BatchNorm1d(3).state_dict()))
    norm = nn.BatchNorm1d(3)
    shared = separate_norms(nn.Sequential(norm, nn.ReLU(), norm))
    assert shared[0] is shared[2]
    assert separate_norms(shared)[0] is shared[0].train() and len(norms(shared, "source")) == 1


def test_both_families_networks_can_be_converted() -> None:
    for network in (LightNet(3, width=8), LightBackbone(width=8), DeepLabV2(3, "resnet18"), ResNetBackbone("resnet18")):
        count = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
        x = torch.rand(2, 3, 32, 32)
        before = network.eval()(x)
        modes = [part.training for part in network.modules()]
        separate_norms(network)
        assert len(norms(network, "target")) == count
        torch.testing.assert_close(network(x), before, rtol=0, atol=0)
        assert not any(part.training for part in network.modules()) and not any(modes)


def test_frozen_statistics_are_left_alone_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(UserError, match="DeepLabV2 .* but the statistics of its batch norms are frozen"):
        separate_norms(DeepLabV2(3, "resnet18", bn_stats="frozen"))
    with pytest.raises(UserError, match="but it has no batch norm"):
        separate_norms(nn.Sequential(nn.Linear(1, 1)))
    network = separate_norms(ResNetBackbone("resnet18", frozen_stages=1))
    assert isinstance(network.bn1, nn.BatchNorm2d) and isinstance(network.layer2[0].bn1, DomainNorm)
    assert "5 of 20 batch norms have frozen statistics" in caplog.text


# -- in a training -----------------------------------------------------------------------------------------------------


def built(**options: Any) -> tuple[MeanTeacher, L.LightningDataModule]:
    return built_teacher(separate=True, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MeanTeacher, Path]:
    folder = tmp_path_factory.mktemp("separate")
    module, data = built()
    trainer(folder, ChannelsLast()).fit(module, data)
    return module, folder / "checkpoints"


@pytest.mark.slow
def test_resumed_it_goes_on_bit_for_bit(trained: tuple[MeanTeacher, Path], tmp_path: Path) -> None:
    first, *_, last = sorted(trained[1].glob("epoch=*.ckpt"))
    module, data = built(seed=1)
    trainer(tmp_path, ChannelsLast()).fit(module, data, ckpt_path=first, weights_only=True)
    assert_same_training(tmp_path / "checkpoints" / last.name, last)
    source, target = (norms(module.network, domain)[0] for domain in ("source", "target"))
    assert not torch.equal(source.running_mean, target.running_mean)
    assert not torch.equal(source.weight, target.weight)
    teachers = norms(module.teacher.network, "source")[0]  # no source image passes through the teacher
    assert teachers.num_batches_tracked == 0 and norms(module.teacher.network, "target")[0].num_batches_tracked == 6


@pytest.mark.slow
def test_tests_exports_and_trainings_that_begin_from_it_have_the_targets(
    trained: tuple[MeanTeacher, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_teachers")
    module, folder = trained
    options = {k: v for k, v in module.hparams.items() if k not in ("teacher", "separate")}
    plain = SourceOnly(**{**options, "init_from": str(folder / "last.ckpt")}).eval()
    assert_same(dict(plain.network.state_dict()), folded(module.network.state_dict()))
    image = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(image), plain(image))
    loaded = load_method(folder / "last.ckpt")
    assert_same(dict(loaded.state_dict()), dict(module.state_dict()))
    write(loaded.exportable(), tmp_path / "network.pt2", "mine")
    exported = torch.export.load(tmp_path / "network.pt2").module()
    torch.testing.assert_close(exported(image), plain(image), rtol=1e-4, atol=1e-5)
    begun = MeanTeacher(**{**module.hparams, "init_from": str(folder / "last.ckpt")})
    for domain in ("source", "target"):
        assert_same(
            [dict(norm.state_dict()) for norm in norms(begun.network, domain)],
            [dict(norm.state_dict()) for norm in norms(module.network, "target")],
        )


class Persons(ReidSourceOnly):
    def __init__(self, separate: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        if separate:
            separate_norms(self.backbone)
            self.embedding = separate_norms(self.embedding)

    def updates(self, batch: Batch) -> Updates:
        with source_norms(self.backbone, self.embedding):
            features = self.embedding(self.pooled(batch["source"]["image"]))
        self.embedding(self.pooled(batch["target"]["image"]))  # for its statistics
        terms = {"identification": Term(self.identification(self.classifier(features), batch["source"]["person"]))}
        yield Backward("embedder", terms)
        yield Step("embedder")


@pytest.mark.slow
def test_persons_are_described_by_the_targets(tmp_path: Path) -> None:
    wanted = ("method.head=batch_norm", "method.feature=embedding")
    cfg = composed("method=reid_source_only", *tiny("reid_source_only"), *wanted)
    options = OmegaConf.to_container(cfg.method, resolve=True)
    options.pop("_target_")
    L.seed_everything(0, verbose=False)
    data = build(cfg.data, "data")
    module = Persons(**options | data.facts.options(ReidSourceOnly, options))
    trainer(tmp_path).fit(module, data)
    source, target = module.embedding.source, module.embedding.target
    assert not torch.equal(source.running_mean, target.running_mean)
    assert torch.equal(target.weight, torch.ones_like(target.weight))  # no loss reaches it
    assert not torch.equal(source.weight, target.weight)
    file = tmp_path / "checkpoints" / "last.ckpt"
    plain = Persons(**{**module.hparams, "separate": False, "init_from": str(file)}).eval()
    image = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(image), plain(image))
    begun = Persons(**{**module.hparams, "init_from": str(file)})
    assert_same(dict(begun.embedding.source.state_dict()), dict(target.state_dict()))


@pytest.mark.slow
def test_two_processes_have_the_same(tmp_path: Path) -> None:
    module, data = built()
    trainer_of_two(tmp_path, WriteState(), ChannelsLast(), max_steps=8).fit(module, data)
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(dict(first), dict(second))
    names = [f"network.stem.1.{domain}.running_mean" for domain in ("source", "target")]
    assert not torch.equal(*(first[name] for name in names))


def test_norms_with_an_activation_inside_are_not_synchronised() -> None:
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    check_plain_norms(nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2)))
    with pytest.raises(UserError, match="sync_batchnorm=true .*WithActivation"):
        check_plain_norms(nn.Sequential(nn.BatchNorm2d(2), WithActivation(2)))
