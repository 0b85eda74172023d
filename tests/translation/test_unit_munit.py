"""UNIT and MUNIT: their updates, forms, weight files and behaviour at the edges."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import backwards, trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import vgg16

from da_lightning.errors import CheckpointError, UserError
from da_lightning.translation.latent import LatentTranslation
from da_lightning.translation.munit import MUNIT
from da_lightning.translation.networks.vgg import PerceptualDistance
from da_lightning.translation.unit import UNIT

ADAM = {"name": "Adam", "lr": 0.001, "betas": [0.5, 0.999]}
SMALL = {"width": 4, "residuals": 2, "discriminator_width": 4, "discriminator_scales": 2, "discriminator_layers": 2}
PAPER = {
    "shared_layers": 1,
    "gan": "vanilla",
    "adversarial_weight": 10.0,
    "kl_weight": 0.1,
    "cycle_kl_weight": 0.1,
    "reconstruction_weight": 100.0,
    "cycle_weight": 100.0,
}
METHODS = [(UNIT, {}), (UNIT, PAPER), (MUNIT, {}), (MUNIT, {"cycle_weight": 10.0})]

Batch = dict[str, dict[str, Tensor]]


def built(kind: type[LatentTranslation], seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {**SMALL, "style_dim": 3, "mlp_width": 8} if kind is MUNIT else SMALL
    return kind(**{"optimizer": ADAM, "max_iters": 2, **sizes, **options})


def images(seed: int = 0, size: int = 32) -> Batch:
    source, target = 2 * torch.rand(2, 2, 3, size, size, generator=torch.Generator().manual_seed(seed)) - 1
    return {"source": {"image": source}, "target": {"image": target}}


def loader(*batches: Batch) -> DataLoader:
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def gradients_of_an_iteration(module: Any, draws: list[int]) -> dict[str, Tensor]:
    """All gradients, the generators' after a step of the discriminators; draw i comes from seed i."""
    seeds = iter(draws)
    module.noise = lambda size: torch.randn(size, generator=torch.Generator().manual_seed(next(seeds)))
    found = {}
    for player, terms in backwards(module, images()):
        module.zero_grad()
        sum(term.weight * term.value for term in terms.values()).backward()
        found |= {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        assert {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None} == {f"{player}s"}
        if player == "discriminator":
            for p in module.discriminators.parameters():
                p.data -= 0.1 * p.grad
    assert next(seeds, None) is None
    return found


@pytest.mark.parametrize(("kind", "options"), METHODS)
def test_shared_and_separate_fakes_have_the_same_gradients(kind: type[LatentTranslation], options: dict) -> None:
    shared, separate = (built(kind, share_fakes=share, **options) for share in (True, False))
    again = [2, 3] if kind is UNIT else []
    one = gradients_of_an_iteration(shared, [0, 1, *again])
    other = gradients_of_an_iteration(separate, [0, 1, 0, 1, *again])
    assert set(one) == {name for name, _ in shared.named_parameters()}
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), METHODS)
@pytest.mark.parametrize(
    ("precision", "colour"),
    [("32-true", (1, 1, 1)), ("bf16-mixed", (1, 1, 1)), ("32-true", (1, -1, -1)), ("32-true", (1, 1, 0.992))],
)
def test_images_of_one_colour_do_no_harm(
    kind: type[LatentTranslation], options: dict, precision: Any, colour: tuple, tmp_path: Path
) -> None:
    module = built(kind, **{**options, "max_iters": 4})
    before = deepcopy(module.state_dict())
    plain = torch.tensor(colour).float()[:, None, None].expand(2, 3, 32, 32)
    white = {domain: {"image": plain.clone()} for domain in ("source", "target")}
    fit = trainer(tmp_path, precision=precision)
    fit.fit(module, loader(white, white, white, images()))
    for name, parameter in module.named_parameters():
        assert parameter.isfinite().all(), name
        assert not name.endswith("weight") or not torch.equal(parameter, before[name]), name
    squares = [state["exp_avg_sq"].max() for optimizer in fit.optimizers for state in optimizer.state.values()]
    assert max(squares) < 1e6  # a single gradient of 1e14 would stop Adam for a thousand iterations


def test_noise_on_images_of_one_colour_is_that_of_the_iteration() -> None:
    module = built(UNIT).train()
    noisy = []
    for seed in range(2):  # a resumed run comes here with another state of the global generator
        torch.manual_seed(seed)
        batch = {domain: {"image": torch.ones(2, 3, 8, 8)} for domain in ("source", "target")}
        noisy.append(module.on_after_batch_transfer(batch, 0))
    assert torch.equal(noisy[0]["source"]["image"], noisy[1]["source"]["image"])
    assert not torch.equal(noisy[0]["source"]["image"], noisy[0]["target"]["image"])


@pytest.mark.parametrize("kind", [UNIT, MUNIT])
def test_translation(kind: type[LatentTranslation]) -> None:
    module, image = built(kind).eval(), images(size=30)["source"]["image"]
    assert module.stride == 4
    torch.manual_seed(1)
    one, other = module.translate(image, "target"), module.translate(image, "target")
    assert one.shape == image.shape and one.abs().max() <= 1
    assert torch.equal(one, other) == (kind is UNIT)
    if kind is MUNIT:
        style = module.encode_style(image, "target")
        assert style.shape == (2, module.style_dim) == (2, 3)
        torch.testing.assert_close(module.translate(image, "target", style), module.translate(image, "target", style))
    assert module.round_trip(image, "source").shape == image.shape


def test_the_learning_rate_halves_one_iteration_early() -> None:
    module = built(UNIT, lr_step=100)
    assert [module.schedule(i) for i in (0, 98, 99, 198, 199)] == [1, 1, 0.5, 0.5, 0.25]


def test_terms_without_weight_are_not_computed() -> None:
    (_, generator) = (terms for _, terms in backwards(built(MUNIT), images()))
    kinds = {name.rpartition("_")[0] for name in generator}
    assert kinds == {"adversarial", "reconstruction", "style", "content"}
    (_, generator) = (terms for _, terms in backwards(built(UNIT, cycle_weight=0.0, cycle_kl_weight=0.0), images()))
    assert {name.rpartition("_")[0] for name in generator} == {"adversarial", "reconstruction", "kl"}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((2, 32, 32), (1, 32, 32)), "as many source as"), (((2, 30, 32), (2, 30, 32)), "multiples of 4, .* 30x32")],
)
def test_images_that_cannot_be_trained_on(shapes: tuple, message: str) -> None:
    source, target = (torch.zeros(n, 3, h, w) for n, h, w in shapes)
    with pytest.raises(UserError, match=message):
        next(backwards(built(UNIT), {"source": {"image": source}, "target": {"image": target}}))


# -- numbers of parameters, shared layers ------------------------------------------------------------------------------


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_official_numbers_of_parameters() -> None:
    with torch.device("meta"):
        unit, munit = UNIT(optimizer=ADAM, max_iters=1), MUNIT(optimizer=ADAM, max_iters=1)
    assert {count(network) for network in munit.generators.values()} == {15_026_187}
    assert {count(network) for network in unit.generators.values()} == {11_140_483}
    assert {count(d) for module in (unit, munit) for d in module.discriminators.values()} == {8_271_171}


def test_the_papers_unit_shares_layers() -> None:
    module, apart = built(UNIT, **PAPER), built(UNIT)
    source, target = module.generators["source"], module.generators["target"]
    assert source.encoder.residuals[-1] is target.encoder.residuals[-1]
    assert source.decoder.residuals[0] is target.decoder.residuals[0]
    assert source.encoder.residuals[0] is not target.encoder.residuals[0]
    parameters = module.players()["generator"].parameters
    assert len({id(p) for p in parameters}) == len(parameters)
    assert count(apart) - count(module) == 2 * count(source.encoder.residuals[-1])
    with pytest.raises(UserError, match="residuals=2.*shared_layers=3"):
        built(UNIT, shared_layers=3)


def test_shared_layers_stay_shared_in_checkpoints(tmp_path: Path) -> None:
    module = built(UNIT, **PAPER)
    run = trainer(tmp_path)
    run.fit(module, loader(images(), images(1)))
    file = tmp_path / "checkpoints" / "last.ckpt"
    again = UNIT.load_from_checkpoint(file)
    assert again.generators["source"].encoder.residuals[-1] is again.generators["target"].encoder.residuals[-1]
    begun = built(UNIT, seed=1, init_from=str(file), **PAPER)
    for one, other in zip(module.parameters(), begun.parameters(), strict=True):
        assert torch.equal(one, other)
    apart = tmp_path / "apart.pt"
    torch.save(official(built(UNIT))["gen"], apart)
    with pytest.raises(CheckpointError, match="shared_layers"):
        built(UNIT, init_from=str(apart), **PAPER)


# -- weight files ------------------------------------------------------------------------------------------------------


def official(module: LatentTranslation) -> dict[str, dict[str, dict[str, Tensor]]]:
    """The weights as the official code writes them, by file."""
    files: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, value in module.state_dict().items():
        part, domain, rest = name.split(".", 2)
        steps = rest.split(".")
        if part == "discriminators":
            steps[0] = "cnns"
        elif steps[0] == "style_encoder":
            steps[0] = "enc_style.model"
        elif steps[0] == "mlp":
            steps = [f"mlp.model.{int(steps[1]) // 2}.fc", *steps[2:]]
        elif steps[0] == "decoder":
            steps = {
                "residuals": ["dec.model.0.model", steps[2], "model", *steps[4:]],
                "upsamples": [f"dec.model.{2 * int(steps[2]) + 2}" if steps[2].isdigit() else "", *steps[3:]],
                "output": ["dec.model.5", *steps[2:]],
            }[steps[1]]
        else:
            start = f"{ {'content_encoder': 'enc_content', 'encoder': 'enc'}[steps[0]] }.model"
            is_block = steps[1] == "residuals"
            steps = [start, "3.model", steps[2], "model", *steps[4:]] if is_block else [start, *steps[2:]]
        state = files.setdefault({"generators": "gen", "discriminators": "dis"}[part], {"a": {}, "b": {}})
        state[{"source": "a", "target": "b"}[domain]][".".join(steps)] = value
    return files


@pytest.mark.parametrize("kind", [UNIT, MUNIT])
def test_official_files(kind: type[LatentTranslation], tmp_path: Path) -> None:
    module = built(kind)
    files = official(module)
    old = "dec.model.0.model.0.model.0.norm.running_mean"  # dummies, and statistics that old files have
    files["gen"]["a"][old] = torch.zeros(16)
    paths = {name: str(tmp_path / f"{name}_00010000.pt") for name in files}
    for name, path in paths.items():
        torch.save(files[name], path)
    alone, both = built(kind, seed=1, init_from=paths["gen"]), built(kind, seed=2, init_from=list(paths.values()))
    for name, value in module.state_dict().items():
        assert torch.equal(value, both.state_dict()[name]), name
        assert torch.equal(value, alone.state_dict()[name]) or name.startswith("discriminators."), name
    checkpoint: dict[str, Any] = {"hyper_parameters": dict(both.hparams)}
    both.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["init_from"] is None


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    files, file = official(built(MUNIT)), tmp_path / "file.pt"
    with pytest.raises(CheckpointError, match="of another shape: generators.source"):
        torch.save(files["gen"], file)
        built(MUNIT, init_from=str(file), width=8)
    with pytest.raises(CheckpointError, match=r"generators\.source\.encoder.*generators\.source\.content"):
        built(UNIT, init_from=str(file))
    del files["gen"]["b"]["mlp.model.1.fc.weight"]
    with pytest.raises(CheckpointError, match=r"generators\.target\.mlp\.2\.weight"):
        torch.save(files["gen"], file)
        built(MUNIT, init_from=str(file))
    with pytest.raises(CheckpointError, match="surplus: gen, dis"):
        torch.save({"gen": {"state": {}}, "dis": {"state": {}}}, file)  # the official optimizer.pt
        built(MUNIT, init_from=str(file))


# -- perceptual term ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pt"
    torch.manual_seed(0)
    with torch.device("meta"):
        network = vgg16().features
    weights = {name: torch.randn(value.shape) for name, value in network.state_dict().items()}
    torch.save({f"features.{name}": (2 / w[0].numel()) ** 0.5 * w for name, w in weights.items()}, file)
    return file


def test_perceptual_distance(vgg_file: Path) -> None:
    torch.manual_seed(0)
    one, other = 2 * torch.rand(2, 2, 3, 32, 24) - 1
    weights = list(torch.load(vgg_file, weights_only=True).values())

    def features(image: Tensor) -> Tensor:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        x = ((image + 1) / 2 - mean) / std
        for number in range(13):
            x = F.relu(F.conv2d(x, weights[2 * number], weights[2 * number + 1], padding=1))
            if number in (1, 3, 6):  # none after conv4_3
                x = F.max_pool2d(x, 2)
        return F.instance_norm(x)

    distance = PerceptualDistance(str(vgg_file))
    found = distance(one.requires_grad_(), other.requires_grad_())
    assert found.shape == (2, 512, 4, 3)
    torch.testing.assert_close(found, (features(one) - features(other)) ** 2, rtol=1e-3, atol=1e-4)
    found.sum().backward()
    assert one.grad is not None and one.grad.abs().sum() > 0 and other.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(one, other).dtype == torch.float32


def test_perceptual_weights_are_nobodys_parameters(vgg_file: Path, tmp_path: Path) -> None:
    module = built(MUNIT, perceptual_weight=1.0, perceptual_features=str(vgg_file), max_iters=1)
    names = set(module.state_dict())
    trainer(tmp_path).fit(module, loader(images()))
    (distance,) = module._perceptual
    assert set(module.state_dict()) == names == set(torch.load(tmp_path / "checkpoints/last.ckpt")["state_dict"])
    assert not {id(p) for p in distance.parameters()} & {id(p) for p in module.parameters()}
    _, generator = (terms for _, terms in backwards(module, images()))
    assert {"perceptual_source", "perceptual_target"} <= generator.keys()


def test_perceptual_term_holds_a_translation_against_its_own_content(vgg_file: Path) -> None:
    module = built(UNIT, perceptual_features=str(vgg_file))
    module._perceptual = (PerceptualDistance(str(vgg_file)),)
    content, forward = {d: part["image"] for d, part in images().items()}, None
    forward = module.forward_pass(content)
    kept = forward._replace(translations={"source": content["target"], "target": content["target"]})
    terms = module._generator_terms(content, kept)
    assert terms["perceptual_source"].value == 0 < terms["perceptual_target"].value


def test_perceptual_features_that_are_missing(tmp_path: Path) -> None:
    torch.save({"gen": torch.zeros(1)}, tmp_path / "other.pt")
    module = built(MUNIT, perceptual_weight=1.0, perceptual_features=str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match="features.0.weight"):
        trainer(tmp_path).fit(module, loader(images()))
