"""UNIT with discriminators that classify: its terms one by one, and what moves what."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import backwards, trainer
from torch import Tensor
from torch.nn import functional as F

from da_lightning.errors import UserError
from da_lightning.training.losses import gan_loss
from da_lightning.translation.data import UnpairedImages
from da_lightning.translation.datasets import ToyShoes
from da_lightning.translation.latent import Forward
from da_lightning.translation.unit_classifier import UNITClassifier

SMALL = {
    "width": 4,
    "residuals": 1,
    "shared_layers": 1,
    "classifier_width": 4,
    "cycle_weight": 0.0,
    "cycle_kl_weight": 0.0,
}
WEIGHTS = {"class_weight": 3.0, "feature_weight": 0.5, "adversarial_weight": 2.0}


def built(**options: Any) -> UNITClassifier:
    torch.manual_seed(0)
    return UNITClassifier(10, optimizer={"name": "SGD", "lr": 0.1}, max_iters=4, **{**SMALL, **WEIGHTS, **options})


def batch() -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(1)
    source, target = 2 * torch.rand(2, 5, 3, 28, 28) - 1
    return {"source": {"image": source, "label": torch.tensor([3, 1, 4, 1, 5])}, "target": {"image": target}}


def forward_pass(module: UNITClassifier, images: dict[str, Tensor]) -> Forward:
    torch.manual_seed(2)
    return module.forward_pass(images)  # type: ignore[arg-type]


@pytest.mark.parametrize("gan", ["least_squares", "vanilla"])
def test_the_discriminators_terms_are_those_of_each_image_by_itself(gan: str) -> None:
    module, given = built(gan=gan), batch()
    images = {domain: given[domain]["image"] for domain in ("source", "target")}
    torch.manual_seed(2)
    player, terms = next(backwards(module, given))
    fakes, label = forward_pass(module, images).translations, given["source"]["label"]
    wanted, features = {}, {}
    for domain, network in module.discriminators.items():
        real, fake = (network(image)[0] for image in (images[domain], fakes[domain]))
        wanted[f"adversarial_{domain}"] = 2 * (gan_loss(real, 1.0, gan) + gan_loss(fake, 0.0, gan))
        features[domain] = [network.features(network.maps(image)) for image in (images[domain], fakes[domain])]
    source, target = module.discriminators["source"], module.discriminators["target"]
    wanted["class_source"] = 3 * F.cross_entropy(source.classify(images["source"]), label)
    wanted["class_target"] = 3 * F.cross_entropy(target.classify(fakes["target"]), label)
    # The features of an image and of its translation: the source's lies among the target's, and the other way round.
    there = (features["source"][0] - features["target"][1]).square().mean()
    back = (features["target"][0] - features["source"][1]).square().mean()
    wanted["features"] = 0.5 * (there + back)
    assert player == "discriminator"
    assert {name: (term.weight * term.value).item() for name, term in terms.items()} == pytest.approx(
        {name: value.item() for name, value in wanted.items()}, rel=1e-5
    )


def test_classes_move_the_discriminators_alone() -> None:
    module = built()
    updates = backwards(module, batch())
    _, terms = next(updates)
    sum(term.weight * term.value for term in terms.values()).backward(retain_graph=True)
    assert all(p.grad is None for p in module.generators.parameters())
    assert all(p.grad is not None for p in module.discriminators.parameters())
    player, terms = next(updates)
    assert player == "generator" and not any(name.startswith("class") for name in terms)


def test_at_first_both_stems_learn_from_the_source_alone() -> None:
    module, given = built(source_iters=1), batch()
    (player, terms), *others = backwards(module, given)
    assert player == "discriminator" and not others
    for domain, network in module.discriminators.items():
        wanted = F.cross_entropy(network.classify(given["source"]["image"]), given["source"]["label"])
        torch.testing.assert_close(terms[f"class_{domain}"].value, wanted)


def test_weights_to_begin_with_are_those_of_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    trained = built()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    run = trainer(tmp_path)
    run.strategy.connect(trained)
    run.save_checkpoint(tmp_path / "own.ckpt")
    fresh = built(init_from=str(tmp_path / "own.ckpt"))
    torch.testing.assert_close(fresh.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("option", ["discriminator_width", "lr_step"])
def test_options_of_plain_unit_that_would_do_nothing_are_told(option: str) -> None:
    with pytest.raises(UserError, match=rf"method\.{option}\b.*UNITClassifier"):
        built(**{option: 3})


def test_a_label_beyond_the_classes_is_told() -> None:
    given = batch()
    given["source"]["label"][2] = 10
    with pytest.raises(UserError, match=r"method\.num_classes=10\b.*\b10\b"):
        next(backwards(built(), given))


def test_domains_share_all_layers_but_the_first() -> None:
    source, target = built().discriminators.values()
    own = {id(p) for p in source.stem.parameters()}
    assert {id(p) for p in source.parameters()} - {id(p) for p in target.parameters()} == own


@pytest.mark.parametrize(
    ("decay_from", "factors"), [(0.5, [1, 1, 1, 0.5, 0]), (1.0, [1] * 5), (0.0, [1, 0.75, 0.5, 0.25, 0])]
)
def test_rates_fall_linearly_from_a_share_of_the_training_on(decay_from: float, factors: list[float]) -> None:
    module = built(decay_from=decay_from)
    assert [module.schedule(iteration) for iteration in range(5)] == pytest.approx(factors)


def test_unlabelled_images_are_told_at_once(tmp_path: Path) -> None:
    module = built()
    data = UnpairedImages(ToyShoes("drawing", 4), ToyShoes("photo", 4, 9), crop_size=None, image_size=None)
    with pytest.raises(UserError, match=r"data\.source\b.*label"):
        trainer(tmp_path).fit(module, data)
