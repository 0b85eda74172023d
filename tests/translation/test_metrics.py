"""Scores of translations against their definitions."""

from pathlib import Path
from urllib.error import URLError

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from tiny_runs import trainer
from tiny_translators import Tint
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import get_model

from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import CheckpointError, UserError
from da_lightning.training.callbacks import Pictures
from da_lightning.translation import module as family
from da_lightning.translation.metrics import PAIRS, DomainScores, metric_networks, score_name


class Noise(Dataset):
    def __init__(self, count: int, mean: float, size: int = 8) -> None:
        generator = torch.Generator().manual_seed(round(100 * mean))
        self.images = (mean + 0.2 * torch.randn(count, 3, size, size, generator=generator)).clamp(-1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"image": self.images[index], "label": 3, "index": index}


class Moments(nn.Module):
    """Six features: mean and deviation of each channel."""

    num_features = 6

    def forward(self, image: Tensor) -> Tensor:
        image = image.float() / 255
        return torch.cat([image.mean((2, 3)), image.std((2, 3))], 1)


class Apart(nn.Module):
    """Distances of two batches, and a record of what was compared."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def forward(self, one: Tensor, another: Tensor) -> Tensor:
        self.pairs.append((one, another))
        return (one - another).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, nn.Module]:
    """Small networks in place of the standard ones."""
    networks = {"fid": Moments(), "kid": Moments(), "lpips": Apart()}
    monkeypatch.setattr(family, "metric_networks", lambda metrics, *_: {metric: networks[metric] for metric in metrics})
    return networks


def data(tests: dict[str, int], eval_batch_size: int = 2) -> SourceTargetDataModule:
    means = {"source": -0.1, "target": 0.3}
    sets = {name: Noise(count, means[name]) for name, count in tests.items()}
    return SourceTargetDataModule(Noise(4, -0.1), Noise(4, 0.3), sets, eval_batch_size=eval_batch_size)


def scores(module: Tint, folder: Path, tests: dict[str, int], *callbacks: L.Callback) -> dict[str, float]:
    return trainer(folder, *callbacks).test(module, data(tests), verbose=False)[0]


def naive_fid(real: Tensor, fake: Tensor) -> float:
    one, other = real.double().numpy(), fake.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(one.T))
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ np.cov(other.T) @ root).clip(0)).sum()
    return ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(other.T)) - 2 * cross


def naive_kid(real: Tensor, fake: Tensor) -> float:
    """Of one subset that holds all."""
    (n, dim), m = real.shape, len(fake)
    kernels = [((a @ b.T) / dim + 1) ** 3 for a, b in ((real, real), (fake, fake), (real, fake))]
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    return float(within[0] + within[1] - 2 * kernels[2].sum() / (n * m))


# -- distances ---------------------------------------------------------------------------------------------------------


def test_fid_and_kid_are_those_of_translations_and_real_images(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    module, tests = Tint(metrics=["fid", "kid"]), {"source": 9, "target": 9}
    computed = scores(module, tmp_path, tests)
    images = {name: dataset.images for name, dataset in data(tests).tests.items()}
    for domain, across in (("source", "target"), ("target", "source")):
        real = Moments()(family.as_uint8(images[domain]))
        with torch.no_grad():
            fake = Moments()(family.as_uint8(module.translate(images[across], domain)))
        assert computed[f"{domain}/fid"] == pytest.approx(naive_fid(real, fake), rel=1e-4)
        assert computed[f"{domain}/kid"] == pytest.approx(naive_kid(real, fake), rel=1e-3, abs=1e-6)
    assert set(computed) == {f"{d}/{s}" for d in ("source", "target") for s in ("fid", "kid", "cycle_l1")}


def test_equal_sets_are_at_no_distance() -> None:
    score = DomainScores({"fid": Moments()}, torch.device("cpu"))
    images = family.as_uint8(Noise(20, 0.1).images)
    for real in (True, False):
        score.add(images, real)
    assert score.compute()["fid"] == pytest.approx(0, abs=1e-6)


def test_the_error_of_round_trips_is_the_mean_over_all_images(tmp_path: Path) -> None:
    computed = scores(module := Tint(), tmp_path, {"target": 3, "source": 2})  # in any order
    assert set(computed) == {"source/cycle_l1", "target/cycle_l1"}
    for name, dataset in data({"target": 3, "source": 2}).tests.items():
        error = (module.round_trip(dataset.images, name) - dataset.images).abs().mean()
        assert computed[f"{name}/cycle_l1"] == pytest.approx(error.item(), rel=1e-5)


def test_two_ranks_agree_with_one(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    """Five images in batches of two: one rank has a batch more than the other."""
    tests = {"source": 5, "target": 5}
    alone = scores(Tint(metrics=["fid", "kid"]), tmp_path, tests)
    forked = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
    )
    together = forked.test(Tint(metrics=["fid", "kid"]), data(tests), verbose=False)[0]
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)


# -- diversity ---------------------------------------------------------------------------------------------------------


def test_diversity_is_that_of_pairs_of_translations_of_one_input(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "INPUTS", 3)
    computed = scores(Tint(style_dim=3, metrics=["lpips"]), tmp_path, {"source": 5, "target": 2})
    pairs = networks["lpips"].pairs
    assert [len(one) for one, _ in pairs] == 5 * [PAIRS]  # three sources, and both targets
    for pair in pairs:
        textures = [image - image.mean((2, 3), keepdim=True) for image in pair]
        assert torch.allclose(textures[0], textures[1][:1].expand_as(textures[0]), atol=1e-5)
        assert len(torch.cat([image.mean((2, 3)) for image in pair]).unique(dim=0)) == 2 * PAIRS
    differences = torch.stack([(one - another).abs().mean() for one, another in pairs])
    assert computed["target/lpips_diversity"] == pytest.approx(differences[:3].mean().item(), rel=1e-5)
    assert computed["source/lpips_diversity"] == pytest.approx(differences[3:].mean().item(), rel=1e-5)


def test_diversity_of_fewer_inputs_says_so(
    networks: dict[str, nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores(Tint(style_dim=3, metrics=["lpips"]), tmp_path, {"source": 2, "target": 2})
    assert "that of 100 inputs; the tests have 2" in caplog.text


def test_scores_depend_on_the_seed_alone(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    def run(seed: int, *callbacks: L.Callback) -> dict[str, float]:
        torch.manual_seed(len(callbacks))
        module = Tint(style_dim=3, metrics=["fid", "kid", "lpips"], seed=seed)
        return scores(module, tmp_path, {"source": 3, "target": 3}, *callbacks)

    first = run(0)
    assert run(0, Pictures()) == first  # which draw styles in between
    assert run(1)["target/lpips_diversity"] != first["target/lpips_diversity"]


def test_an_image_has_the_same_styles_in_any_batch(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    found = []
    for size in (1, 2, 5):
        module = Tint(style_dim=3, metrics=["fid", "kid", "lpips"])
        found.append(trainer(tmp_path).test(module, data({"source": 5, "target": 5}, size), verbose=False)[0])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_methods_without_styles_have_no_diversity(tmp_path: Path) -> None:
    assert not [
        name for name in scores(Tint(metrics=["lpips"]), tmp_path, {"source": 2, "target": 2}) if "lpips" in name
    ]


# -- networks ----------------------------------------------------------------------------------------------------------


def test_names_tell_by_which_network() -> None:
    assert [score_name(metric) for metric in ("fid", "kid", "lpips")] == ["fid", "kid", "lpips_diversity"]
    own = ("resnet18", "weights/streets.v2.pth")
    assert score_name("fid", *own) == "fid_resnet18_streets.v2"
    assert score_name("lpips", *own) == "lpips_diversity"  # of AlexNet still
    assert score_name("lpips", "vgg16", "mine.pth") == "lpips_diversity_vgg16_mine"
    assert Tint().objective == "target/cycle_l1"
    assert Tint(metrics=["fid"], features="resnet18", features_from="a.pth").objective == "target/fid_resnet18_a"


def test_a_local_network_gives_what_goes_into_its_last_layer(tmp_path: Path) -> None:
    model = get_model("shufflenet_v2_x0_5", weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    networks = metric_networks(["fid", "kid"], "shufflenet_v2_x0_5", str(tmp_path / "mine.pth"))
    assert networks["fid"] is networks["kid"]
    image = torch.randint(256, (1, 3, 224, 224), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        wanted = model((image / 255 - mean) / std)
        torch.testing.assert_close(model.fc(networks["fid"](image)), wanted, rtol=1e-4, atol=1e-5)
    assert networks["fid"].num_features == model.fc.in_features
    with pytest.raises(CheckpointError, match=r"shufflenet_v2_x1_0 in .*mine\.pth"):
        metric_networks(["fid"], "shufflenet_v2_x1_0", str(tmp_path / "mine.pth"))


def test_lpips_by_a_local_network(tmp_path: Path) -> None:
    model = get_model("squeezenet1_1", weights=None)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    lpips = metric_networks(["lpips"], "squeezenet1_1", str(tmp_path / "mine.pth"))["lpips"]
    one, other = torch.rand(2, 2, 3, 64, 64)
    assert lpips(one, other).flatten().min() > 0
    assert lpips(one, one).abs().max() == 0
    first = model.features[:2](lpips.scaling_layer(one))
    torch.testing.assert_close(lpips.net(lpips.scaling_layer(one)).relu1, first)
    with pytest.raises(UserError, match="has no linear layer"):
        metric_networks(["fid"], "squeezenet1_1", str(tmp_path / "mine.pth"))


@pytest.mark.parametrize("metric", ["fid", "kid", "lpips"])
def test_a_standard_network_that_cannot_be_had_is_told_before_training(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_, **__) -> None:
        raise URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    module = Tint(style_dim=3, metrics=[metric])
    with pytest.raises(UserError, match=r"method\.features.* method\.features_from") as caught:
        trainer(tmp_path).fit(module, data({"source": 2, "target": 2}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "tests", "message"),
    [
        ({"features": "resnet18"}, {"source": 2, "target": 2}, "belong together"),
        ({"features": "resnet-18", "features_from": "x"}, {"source": 2, "target": 2}, "none of torchvision's"),
        ({"features": "resnet18", "features_from": "x.pth"}, {"source": 2, "target": 2}, "checkpoint at x.pth"),
        ({}, {"source": 1, "target": 2}, "two images at least"),
        ({}, {"target": 2}, "two images at least"),
    ],
)
def test_what_cannot_be_measured_is_told_before_training(
    options: dict[str, str], tests: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(Tint(metrics=["fid"], **options), data(tests))


def test_networks_of_metrics_are_in_no_checkpoint(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    networks["fid"] = nn.Sequential(Moments(), nn.Linear(6, 6))
    networks["fid"].num_features = 6
    fit = trainer(tmp_path)
    fit.test(module := Tint(metrics=["fid"]), data({"source": 2, "target": 2}), verbose=False)
    assert set(module.state_dict()) == {"mix.weight", "mix.bias"}
