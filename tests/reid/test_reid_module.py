"""What re-identification methods share, and training on the source alone."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import backwards, composed
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import read_image

from da_lightning.config.build import build
from da_lightning.errors import CheckpointError, UserError
from da_lightning.reid import pictures
from da_lightning.reid.data import PersonDataModule
from da_lightning.reid.datasets import PersonDataset, QueryGallery
from da_lightning.reid.pictures import RIGHT, WRONG
from da_lightning.reid.source_only import ReidSourceOnly
from da_lightning.training.callbacks import StopAtIteration

LIGHT = {"_target_": "da_lightning.reid.networks.LightBackbone", "width": 8}
SGD = {"name": "SGD", "lr": 0.1}


class People(PersonDataset):
    """A colour a person, a little of it lost from camera to camera."""

    def __init__(self, persons: Sequence[int], cameras: Sequence[int], labelled: bool = True) -> None:
        self.numbers, self.cameras, self.labelled = persons, cameras, labelled
        self.persons = persons if labelled else []

    def __len__(self) -> int:
        return len(self.cameras)

    def name(self, index: int) -> str:
        return str(index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        colour = torch.Generator().manual_seed(self.numbers[index] + 9)
        image = torch.randint(0, 240, (3, 1, 1), generator=colour) + 5 * self.cameras[index]
        item = {"image": image.expand(3, 32, 16).to(torch.uint8), "camera": self.cameras[index]}
        return item | ({"person": self.numbers[index]} if self.labelled else {})


QUERY = People([3, 8, 3], [1, 1, 2])
GALLERY = People([0, 3, 8, -1, 3, 8, 0], [1, 1, 3, 2, 3, 2, 2])


def data(**options: Any) -> PersonDataModule:
    tests = {"target": QueryGallery(QUERY, GALLERY), "source": QueryGallery(GALLERY_ONLY, GALLERY)}
    plain = {"flip": False, "crop": None, "erasing": 0.0, "batch_size": 4, "eval_batch_size": 4}
    return PersonDataModule(
        People([7, 12, 40, 12], [1, 1, 2, 2]),
        People([1, 2, 3, 4], [1, 2, 1, 2], labelled=False),
        tests,
        **{"image_size": (32, 16), "iterations_per_epoch": 2, **plain, **options},
    )


GALLERY_ONLY = People([8], [1])


def method(**options: Any) -> ReidSourceOnly:
    known = data().facts.options(ReidSourceOnly, options)
    torch.manual_seed(0)
    return ReidSourceOnly(**{"backbone": LIGHT, "optimizer": SGD, "max_iters": 4, **known, **options})


def trainer(folder: Path, **options: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        callbacks=[StopAtIteration()],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


# -- features --------------------------------------------------------------------------------------------------------


def test_stripes_are_maxima_of_equal_parts_of_the_map_and_leave_training_alone() -> None:
    module = method(stripes=2, num_persons=3).eval()
    image = torch.rand(2, 3, 128, 64)
    maps = module.backbone(image)
    expected = torch.cat([maps[:, :, :2].amax((2, 3)), maps[:, :, 2:].amax((2, 3))], dim=1)
    # A channel's stripes lie side by side: all distances are the same in either order.
    assert torch.equal(module.embed(image).sort(1).values, expected.sort(1).values)
    torch.testing.assert_close(module.pooled(image), maps.flatten(2).mean(2))
    assert torch.equal(method(stripes=None, num_persons=3).eval().embed(image), module.pooled(image))


def test_flip_average_does_not_see_which_way_somebody_walks() -> None:
    module, image = method(flip_average=True, num_persons=3).eval(), torch.rand(2, 3, 64, 32)
    expected = (module.pooled(image) + module.pooled(image.flip(3))) / 2
    torch.testing.assert_close(module.embed(image), expected)
    torch.testing.assert_close(module.embed(image.flip(3)), expected)


def test_features_are_float32_under_autocast() -> None:
    module = method(num_persons=3, feature="embedding", flip_average=True).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert module.embed(torch.rand(2, 3, 64, 32)).dtype == torch.float32


@pytest.mark.parametrize("head", ["embedding", "batch_norm"])
def test_embedding_feature_comes_before_the_non_linearity(head: str) -> None:
    module = method(head=head, feature="embedding", embedding_size=5, num_persons=3).eval()
    image = torch.rand(2, 3, 64, 32)
    assert torch.equal(module.embed(image), module.embedding(module.pooled(image)))
    assert module.embed(image).shape == (2, 5 if head == "embedding" else 64)


@pytest.mark.parametrize("options", [{"head": None}, {"stripes": 2}])
def test_embedding_feature_needs_a_head_and_the_whole_map(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="feature=embedding"):
        method(feature="embedding", num_persons=3, **options)


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["embedding", "batch_norm", None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_the_recipe(head: Any, smoothing: float) -> None:
    module = method(head=head, num_persons=3, dropout=0.0, label_smoothing=smoothing, embedding_size=5)
    source = {"image": torch.rand(4, 3, 64, 32), "person": torch.tensor([2, 0, 1, 2])}
    features = module.backbone(source["image"]).flatten(2).mean(2)
    if head == "embedding":
        linear, norm = module.embedding
        features = features @ linear.weight.T + linear.bias
        features = (features - features.mean(0)) / (features.var(0, correction=0) + norm.eps).sqrt()
        features = features.where(features > 0, 0.1 * features)
    elif head == "batch_norm":
        features = (features - features.mean(0)) / (features.var(0, correction=0) + 1e-5).sqrt()
        assert module.classifier.bias is None
    log_p = torch.log_softmax(module.classifier(features), dim=1)
    wanted = (1 - smoothing) * F.one_hot(source["person"], 3) + smoothing / 3
    ((player, terms),) = backwards(module, {"source": source})
    assert player == "embedder"
    torch.testing.assert_close(terms["identification"].value, -(wanted * log_p).sum(1).mean())


def test_dropout_is_between_embedding_and_classifier() -> None:
    module, seen = method(num_persons=3, dropout=0.5), []
    module.classifier.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    list(backwards(module, {"source": {"image": torch.rand(4, 3, 64, 32), "person": torch.zeros(4).long()}}))
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6


def test_official_rates_fall_at_the_fortieth_epoch_of_sixty() -> None:
    for experiment, epoch in (("ecn_market2duke", 101), ("spgan_market2duke", 808)):
        options = composed(f"experiment={experiment}").method
        module = method(num_persons=3, max_iters=60 * epoch, decay_at=list(options.decay_at))
        assert module.schedule(40 * epoch - 1) == 1 and module.schedule(40 * epoch) == pytest.approx(0.1)


def test_epochs_are_no_shares() -> None:
    with pytest.raises(UserError, match=r"method\.decay_at\.0=40 was refused"):
        build(composed("method=reid_source_only", "method.decay_at=[40]").method, "method")


def test_learning_rates() -> None:
    frozen = {"_target_": "da_lightning.reid.networks.ResNetBackbone", "model": "resnet18", "frozen_stages": 2}
    module = method(backbone=frozen, num_persons=3, max_iters=90, decay_at=[1 / 3, 2 / 3], backbone_lr_factor=0.1)
    optimizer = module.configure_optimizers()[0]["optimizer"]
    backbone, new = optimizer.param_groups
    assert (backbone["lr"], new["lr"]) == pytest.approx((0.01, 0.1))
    assert len(backbone["params"]) == len([p for p in module.backbone.parameters() if p.requires_grad])
    assert {id(p) for p in new["params"]} == {
        id(p) for p in [*module.embedding.parameters(), *module.classifier.parameters()]
    }
    factors = [module.schedule(iteration) for iteration in (0, 29, 30, 59, 60, 89)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_nothing_of_the_target_reaches_training(tmp_path: Path) -> None:
    class NoTarget(PersonDataModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"source": batch["source"]} if self.trainer.training else batch

    modules = [method(num_persons=3), method(num_persons=3)]
    for module, kind in zip(modules, (PersonDataModule, NoTarget), strict=True):
        own = data()
        own.__class__ = kind
        trainer(tmp_path).fit(module, own)
    for one, other in zip(*(m.state_dict().values() for m in modules), strict=True):
        assert torch.equal(one, other)


# -- what the data says ----------------------------------------------------------------------------------------------


def test_persons_and_image_size_come_from_the_data_and_stay_in_the_checkpoint(tmp_path: Path) -> None:
    module = method(backbone={**LIGHT, "last_stride": 1})
    fit = trainer(tmp_path)
    fit.fit(module, data())
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]["num_persons"] == 3
    rebuilt = ReidSourceOnly.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert (rebuilt.num_persons, rebuilt.image_size, rebuilt.interpolation) == (3, (32, 16), "bicubic")
    assert rebuilt.classifier.out_features == 3
    image = torch.rand(2, 3, 32, 16)
    assert torch.equal(rebuilt.eval().embed(image), module.eval().embed(image))


def test_another_number_of_persons_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_persons=5\b.*\b3 persons"):
        trainer(tmp_path).fit(method(num_persons=5), data())


def test_without_data_the_number_must_be_given() -> None:
    with pytest.raises(UserError, match=r"method\.num_persons"):
        ReidSourceOnly(backbone=LIGHT, optimizer=SGD, max_iters=4)


def test_init_from_leaves_out_a_classifier_of_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = method(num_persons=3)
    for value in first.state_dict().values():
        value.add_(1)
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": {}}, tmp_path / "first.ckpt")
    same = method(num_persons=3, init_from=str(tmp_path / "first.ckpt"))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in same.state_dict().items())
    assert "classifier" not in caplog.text
    with caplog.at_level(logging.WARNING):
        other = method(num_persons=4, init_from=str(tmp_path / "first.ckpt"))
    assert "classifier" in caplog.text
    assert torch.equal(other.backbone.stem[0].weight, first.backbone.stem[0].weight)
    assert torch.equal(other.embedding[0].bias, first.embedding[0].bias)
    with pytest.raises(CheckpointError, match=r"first\.ckpt.*embedding"):
        method(num_persons=3, head=None, init_from=str(tmp_path / "first.ckpt"))


# -- test and picture ------------------------------------------------------------------------------------------------


def mean_average_precision(embed: Any, query: PersonDataset, gallery: PersonDataset) -> float:
    features = [F.normalize(embed(torch.stack([s[i]["image"] for i in range(len(s))]) / 255)) for s in (query, gallery)]
    distances = 1 - features[0] @ features[1].T
    precisions = []
    for q in range(len(query)):
        hits, kept, own = 0, 0, []
        for g in distances[q].argsort(stable=True).tolist():
            same = gallery.persons[g] == query.persons[q]
            if gallery.persons[g] == -1 or (same and gallery.cameras[g] == query.cameras[q]):
                continue
            kept += 1
            hits += same
            if same:
                own.append(hits / kept)
        precisions.append(sum(own) / len(own))
    return sum(precisions) / len(precisions)


def test_scores_and_the_picture_of_each_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, drawn = method(num_persons=3), {}
    monkeypatch.setattr(
        pictures, "write_picture", lambda trainer, name, rows, columns, *_: drawn.update({name: (rows, columns)})
    )
    scores = trainer(tmp_path).test(module, data(), verbose=False)[0]
    module.eval()
    with torch.no_grad():
        assert scores["target/map"] == pytest.approx(mean_average_precision(module.embed, QUERY, GALLERY), abs=1e-6)
        assert scores["source/map"] == pytest.approx(mean_average_precision(module.embed, GALLERY_ONLY, GALLERY))
    names = ("map", "map_trapezoid", "rank1", "rank5", "rank10", "rank20")
    assert set(scores) == {f"{test}/{name}" for test in ("target", "source") for name in names}

    assert list(drawn) == ["ranking_target", "ranking_source"]
    rows, columns = drawn["ranking_target"]
    assert (len(rows), columns) == (len(QUERY) * 11, 11)
    for query, row in enumerate(rows.split(columns)):
        framed, rest = row[0], row[1:]
        assert_image(framed, QUERY[query]["image"])
        kept = [item for item in (GALLERY[g] for g in range(len(GALLERY))) if counts(QUERY[query], item)]
        # Every image that counts is there, framed by whether it is right; then white.
        right = sum(item["person"] == QUERY[query]["person"] for item in kept)
        frames = [tuple(image[:, 0, 0].tolist()) for image in rest]
        assert frames.count(pytest.approx(RIGHT)) == right
        assert frames.count(pytest.approx(WRONG)) == len(kept) - right
        assert all((image == 1).all() for image in rest[len(kept) :])
        for image in rest[: len(kept)]:
            shown = [item for item in kept if (image[:, 9, 9] * 255).round().equal(item["image"][:, 9, 9].float())]
            assert shown and (image[1, 0, 0] > 0.5) == (shown[0]["person"] == QUERY[query]["person"])
        apart = [distance(module, QUERY[query]["image"], image[:, 3:-3, 3:-3] * 255) for image in rest[: len(kept)]]
        assert apart == pytest.approx(sorted(apart), abs=1e-6)


def test_validations_are_ranked_each_epoch(tmp_path: Path) -> None:
    module, held_out = method(max_iters=2), data()
    held_out.validations = {"source": held_out.tests["source"]}
    fit = trainer(tmp_path)
    fit.fit(module, held_out)
    expected = fit.test(module, held_out, verbose=False)[0]["source/map"]
    fit.validate(module, held_out, verbose=False)
    assert fit.callback_metrics["val/source/map"] == pytest.approx(expected)


def test_a_sanity_check_ranks_nothing(tmp_path: Path) -> None:
    module, held_out = method(max_iters=1), data(eval_batch_size=1)
    held_out.validations = {"source": held_out.tests["source"]}
    fit = trainer(tmp_path, num_sanity_val_steps=2)
    fit.fit(module, held_out)
    assert 0 <= fit.callback_metrics["val/source/map"] <= 1


def counts(query: dict[str, Any], item: dict[str, Any]) -> bool:
    is_own = item["person"] == query["person"] and item["camera"] == query["camera"]
    return item["person"] != -1 and not is_own


def assert_image(framed: Tensor, image: Tensor) -> None:
    torch.testing.assert_close(framed[:, 3:-3, 3:-3], image / 255)


@torch.no_grad()
def distance(module: ReidSourceOnly, one: Tensor, other: Tensor) -> float:
    return 1 - F.cosine_similarity(*(module.embed(image[None] / 255) for image in (one, other))).item()


def test_the_run_leaves_the_picture(tmp_path: Path) -> None:
    module = method()
    fit = trainer(tmp_path)
    fit.fit(module, data())
    fit.test(module, data(), verbose=False)
    picture = read_image(str(tmp_path / "pictures" / "ranking_target.png"))
    assert picture.shape == (3, 3 * (32 + 6 + 2) + 2, 11 * (16 + 6 + 2) + 2)
    fit.save_checkpoint(tmp_path / "source_only.ckpt")
    fit.test(module, data(), ckpt_path=tmp_path / "source_only.ckpt", weights_only=True, verbose=False)
    assert (tmp_path / "pictures" / "ranking_source_only_target.png").is_file()
