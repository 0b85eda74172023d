"""Each segmentation pair of conf/data, and each recipe of conf/experiment that uses one, on folders drawn here."""

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from da_lightning.config import CONF_DIR
from da_lightning.config.build import build
from da_lightning.config.class_map import read_class_map
from da_lightning.errors import UserError
from da_lightning.session import train_and_test

SIZE = (24, 32)
COUNT = 8  # images in each set: the largest batch of any pair
CLASS_MAP = """
classes:
  road: {ids: [3], color: [128, 64, 128]}
  car: {ids: [5, 700], color: [0, 0, 142]}
ignore_ids: [0]
"""
# Of each data set: where its images and labels are, the labels' mode (RGB: in the red channel), ids that may occur.
LAYOUTS = {
    "Cityscapes": ("leftImg8bit/{split}/ulm/*_leftImg8bit.png", "gtFine/{split}/ulm/*_gtFine_labelIds.png", "L", 34),
    "GTA5": ("images/*.png", "labels/*.png", "P", 35),
    "SYNTHIA": ("RGB/*.png", "GT/LABELS/*.png", "RGB", 23),
    "CrossCity": ("{city}/Images/{folder}/*.jpg", "{city}/Labels/{folder}/*_eval.png", "L", 34),
    "BDD100K": ("images/10k/{split}/*.jpg", "labels/sem_seg/masks/{split}/*.png", "L", [*range(19), 255]),
    "CamVid": ("train/*.png", "trainannot/*.png", "L", 12),
    "CARLA": ("{split}/CameraRGB/*.png", "{split}/CameraSeg/*.png", "RGB", 13),
    "ImageLabelFolder": ("{images}/deep/*.png", "{labels}/deep/*.png", "L", [0, 3, 5, 700]),
}
ABSENT = {"CARLA": ("Sky", "Bicyclist")}  # classes that a data set never shows


def entries(group: str, name: str) -> list[Any]:
    return yaml.safe_load((CONF_DIR / group / f"{name}.yaml").read_text()).get("defaults", [])


def parents(group: str, name: str) -> list[str]:
    """The files of the same folder that a file of conf/ builds on."""
    return [entry for entry in entries(group, name) if isinstance(entry, str) and entry != "_self_"]


def is_segmentation(pair: str) -> bool:
    base = {"base@_here_": "segmentation"}
    return base in entries("data", pair) or any(is_segmentation(parent) for parent in parents("data", pair))


def data_of(experiment: str) -> str:
    own = [e["override /data"] for e in entries("experiment", experiment) if "override /data" in e and type(e) is dict]
    return own[0] if own else data_of(parents("experiment", experiment)[0])


PAIRS = sorted(path.stem for path in (CONF_DIR / "data").glob("*.yaml") if is_segmentation(path.stem))
EXPERIMENTS = sorted(
    path.stem for path in (CONF_DIR / "experiment").glob("*.yaml") if is_segmentation(data_of(path.stem))
)


def save_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def save_label(path: Path, ids: list[int], mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.resize(np.array(ids, np.uint8 if max(ids) < 256 else np.uint16), SIZE)
    image = Image.fromarray(np.stack([label, 0 * label, 0 * label], -1) if mode == "RGB" else label)
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(path)


def draw(node: dict[str, Any]) -> None:
    """Draw the folder of a configured data set, with labels only where it reads them."""
    images, labels, mode, ids = LAYOUTS[node["_target_"].rpartition(".")[2]]
    root, fields = Path(node["root"]), node | {"folder": str(node.get("split")).title()}
    images, labels = images.format(**fields), labels.format(**fields)
    list_file = node.get("list_file")
    names = [f"{Path(list_file or 'x').stem}_{number}" for number in range(COUNT)]  # CamVid's splits share a folder
    for number, name in enumerate(names):
        save_image(root / images.replace("*", name), number)
        if node["labelled"]:
            save_label(root / labels.replace("*", name), ids if isinstance(ids, list) else list(range(ids)), mode)
    if list_file:
        (root / list_file).parent.mkdir(exist_ok=True)
        (root / list_file).write_text("".join(f"{images.replace('*', name)}\n" for name in names))


@pytest.fixture(autouse=True)
def _drawn_data_stay_here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs have a usual place, under ``DA_DATA_DIR`` or ``data``: nothing may be drawn into real data there."""
    if not request.node.originalname.startswith("test_real"):
        monkeypatch.setenv("DA_DATA_DIR", str(tmp_path / "usual_place"))


def configured(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and node of each data set on disk under ``node``."""
    if isinstance(node, dict):
        if node.get("_target_", "").rpartition(".")[2] in LAYOUTS:
            yield key, node
        for name, value in node.items():
            yield from configured(value, f"{key}.{name}".lstrip("."))


def composed(tmp_path: Path, *overrides: str) -> DictConfig:
    """The options, with what a pair leaves to its user filled in and all folders drawn under ``tmp_path``."""
    always = ["trainer=cpu", "logger=csv", "callbacks.progress=null", "data.num_workers=0"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", [*overrides, *always, "trainer.enable_progress_bar=false"])
    data = cfg.data
    if OmegaConf.is_missing(data, "root"):
        data.root = str(tmp_path / "root")
    if OmegaConf.is_missing(data, "class_map"):
        data.class_map = str(tmp_path / "classes.yaml")
        (tmp_path / "classes.yaml").write_text(CLASS_MAP)
    for key, node in configured(OmegaConf.to_container(data)):
        if node["root"] == "???":
            OmegaConf.update(data, f"{key}.root", str(tmp_path / key))
        if "ignore_bottom" in node:  # 100 rows, more than these images have
            OmegaConf.update(data, f"{key}.ignore_bottom", 0)
    for _, node in configured(OmegaConf.to_container(data, resolve=True)):
        assert Path(node["root"]).is_relative_to(tempfile.gettempdir()), f"{node['root']} may hold real data"
        draw(node)
    return cfg


def check_image(image: torch.Tensor, batch_size: int, size: tuple[int, int]) -> None:
    assert image.dtype == torch.float32 and image.shape == (batch_size, 3, *size)
    assert 0 <= image.min() < 0.2 and 0.8 < image.max() <= 1


def images_of(dataset: Any) -> set[Any]:
    return {s.image for s in getattr(dataset, "samples", ())} or {dataset.name(i) for i in range(len(dataset))}


@pytest.mark.parametrize("pair", PAIRS)
def test_pair(tmp_path, pair):
    cfg = composed(tmp_path, f"data={pair}")
    data, classes = build(cfg.data, "data"), list(cfg.data.classes)
    source_size, target_size = data.source_view.size, data.target_view.size

    batch, *_ = next(iter(data.train_dataloader()))
    source, target = batch["source"], batch["target"]
    assert source.keys() == {"image", "label", "index"} and target.keys() == {"image", "index"}
    check_image(source["image"], cfg.data.batch_size, source_size)
    check_image(target["image"], cfg.data.batch_size, target_size)
    assert source["label"].dtype == torch.int64 and source["label"].shape == (cfg.data.batch_size, *source_size)
    assert source["index"].dtype == target["index"].dtype == torch.int64
    assert set(source["label"].unique().tolist()) <= {*range(len(classes)), 255}

    assert ("target" in data.tests) == (pair != "image_label_folders")
    for name, loader in zip(data.tests, data.test_dataloader(), strict=True):
        assert images_of(data.tests[name].dataset).isdisjoint(images_of(data.source_view.dataset))
        assert images_of(data.tests[name].dataset).isdisjoint(images_of(data.target_view.dataset))
        batch = next(iter(loader))
        assert batch.keys() == {"image", "label", "index"}
        check_image(batch["image"], len(batch["label"]), target_size)
        assert batch["label"].dtype == torch.int64
        if pair != "toy_streets":
            absent = ABSENT.get(type(data.tests[name].dataset).__name__, ())
            shown = [number for number, name in enumerate(classes) if name not in absent]
            assert batch["label"].shape[1:] == SIZE
            assert batch["label"].unique().tolist() == [*shown, 255]


def test_every_data_set_has_a_pair():
    used = {node["_target_"] for pair in PAIRS for _, node in configured(yaml_of(pair))}
    assert {target.rpartition(".")[2] for target in used} == set(LAYOUTS)


def yaml_of(pair: str) -> Any:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose("config", [f"data={pair}"]).data)


@pytest.mark.parametrize("city", ["Rio", "Taipei"])
def test_cross_city_takes_both_sets_from_the_city(tmp_path, city):
    data = build(composed(tmp_path, "data=cityscapes2crosscity", f"data.target.city={city}").data, "data")
    files = [data.target.dataset.samples[0].image, data.tests["target"].dataset.samples[0].label]
    assert [file.relative_to(tmp_path / "usual_place/crosscity").parts[0] for file in files] == [city, city]


# -- recipes -----------------------------------------------------------------------------------------------------------


def trained(cfg: DictConfig, tmp_path: Path, size: tuple[int, int]) -> dict[str, Any]:
    """metrics.json after two iterations of ``cfg`` on images of ``size``, with a round in between if it has rounds."""
    cfg.data.image_size, cfg.data.target_image_size = size, size
    if cfg.data.crop_size:
        cfg.data.crop_size = [side // 2 for side in size]
    if "rounds" in cfg.method:
        cfg.method.source_iters, cfg.method.rounds, cfg.method.iters_per_round = 1, 1, 1
    else:
        cfg.method.max_iters = 2
    run_dir = tmp_path / "run"
    train_and_test(cfg, run_dir, "method", "data")
    return json.loads((run_dir / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_runs(tmp_path, experiment):
    cfg = composed(
        tmp_path, f"experiment={experiment}", *([] if "lite0" in experiment else ["network@method.network=light"])
    )
    # A discriminator wants 32x32 pixels, also where it begins late.
    summary = trained(cfg, tmp_path, (64, 128) if "adaptsegnet" in experiment else (32, 64))
    assert summary["iterations"] == 2 and 0 <= summary["test"]["target/miou"] <= 1
    labels = list((tmp_path / "run/pseudo_labels/round_1").rglob("*.png"))
    assert len(labels) == (COUNT if "rounds" in cfg.method else 0)
    assert (tmp_path / "run/spatial_prior.pt").is_file() == cfg.method.get("spatial_prior", False)


@pytest.mark.slow
def test_official_network(tmp_path):
    cfg = composed(tmp_path, "experiment=adaptsegnet_gta2cityscapes", "method.network.pretrained=null")
    del cfg.callbacks.checkpoint  # 340 MB
    assert trained(cfg, tmp_path, (64, 128))["iterations"] == 2


def module_of(tmp_path: Path, experiment: str) -> Any:
    return build(composed(tmp_path, f"experiment={experiment}", "network@method.network=light").method, "method")


def test_adaptsegnet_has_the_official_numbers(tmp_path):
    two, one = (module_of(tmp_path, f"adaptsegnet_{name}gta2cityscapes") for name in ("", "single_"))
    assert two.max_iters == 150_000
    assert [two.schedule(i) for i in (0, 75_000, 150_000)] == pytest.approx([1, 0.725, 0.438], abs=1e-3)
    assert two.optimizer_options == {
        "name": "SGD",
        "lr": 2.5e-4,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "nesterov": False,
    }
    assert two.discriminator_optimizer == {"name": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    assert (two.head_lr_factor, two.auxiliary_weight) == (10, 0.1)
    assert tuple(two.adversarial_weights) == (0.001, 0.0002) and tuple(one.adversarial_weights) == (0.001,)
    assert [len(module.network(torch.rand(1, 3, 32, 32))) for module in (two, one)] == [2, 1]


@pytest.mark.parametrize(
    ("experiment", "portions", "shares", "policy"),
    [
        ("cbst_gta2cityscapes", (0.15, 0.05, 0.5), (0.03, 0.0025, 0.06), "class_balanced"),
        ("cbst_sp_gta2cityscapes", (0.15, 0.05, 0.5), (0.03, 0.0025, 0.06), "class_balanced"),
        ("st_gta2cityscapes", (0.15, 0.05, 0.5), (0.03, 0.0025, 0.06), "global"),
        ("cbst_synthia2cityscapes", (0.2, 0.05, 0.5), (0.02, 0.0, 0.02), "class_balanced"),
    ],
)
def test_cbst_has_the_official_numbers(tmp_path, experiment, portions, shares, policy):
    module = module_of(tmp_path, experiment)
    firsts = [module.source_iters + number * module.iters_per_round for number in range(6)]
    rates = [2.5e-4 * module.schedule(first) for first in firsts]
    assert rates == pytest.approx([1e-4 / math.sqrt(2) ** number for number in range(6)], rel=1e-3)
    training = module.make_rounds()
    assert (training.rounds, training.policy, training.threshold_stride) == (6, policy, 4)
    assert (training.portions, training.source_shares) == (portions, shares)


def test_debug_cuts_a_recipe_short():
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("config", ["debug=fast", "experiment=adaptsegnet_gta2cityscapes"])
    assert (cfg.method.max_iters, cfg.trainer.limit_train_batches) == (2, 2)


# -- own folders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["image_label_folders", "image_label_folders_tested"])
def test_own_folders(tmp_path, caplog, pair):
    cfg = composed(tmp_path, f"data={pair}", "method=cbst", "data.batch_size=2")
    with caplog.at_level("INFO"):
        scores = trained(cfg, tmp_path, (32, 64))["test"]
    is_tested = pair.endswith("tested")
    assert ("nothing to test" in caplog.text) != is_tested
    own = {"target/miou", "target/iou/road", "target/iou/car"}
    assert scores.keys() == (own | {f"source_only/{name}" for name in own} if is_tested else set())
    assert (tmp_path / "run/pseudo_labels/round_1/deep/x_0.png").is_file()
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["classes"] == {"road": [128, 64, 128], "car": [0, 0, 142]}


def test_class_map_reaches_the_labels(tmp_path):
    cfg = composed(tmp_path, "data=image_label_folders")
    source = build(cfg.data, "data").source_view.dataset
    ids = torch.from_numpy(np.array(Image.open(source.samples[0].label)).astype(np.int64))
    expected = torch.full(SIZE, 77)
    for number, class_id in {0: 255, 3: 0, 5: 1, 700: 1}.items():
        expected[ids == number] = class_id
    assert torch.equal(source[0]["label"].long(), expected)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"),
        ("classes: [", "cannot be read"),
        ("- road", "has a mistake at the whole"),
        ("road: {ids: [1], color: [0, 0, 0]}", "has a mistake at classes (Field required)"),
        ("classes: {}", "has a mistake at classes"),
        ("classes: {road: {ids: [1]}}", "has a mistake at classes.road.color"),
        ("classes: {a: {ids: [1], color: [0, 0, 0]}, b: {color: [0, 0, 1]}}", "has no ids for b"),
        ("classes: {road: {ids: [1], color: [0, 0, 256]}}", "has a mistake at classes.road.color.2"),
        ("classes: {road: {ids: [-1], color: [0, 0, 0]}}", "has a mistake at classes.road.ids.0"),
        ("classes: {road/kerb: {ids: [1], color: [0, 0, 0]}}", "has a mistake at classes.road/kerb"),
        ("classes: {a: {ids: [1, 2], color: [0, 0, 0]}}\nignore_ids: [2]", "lists the ids [2] more than once"),
        ("classes: {a: {ids: [1], color: [0, 0, 0]}}\nignore: [2]", "has a mistake at ignore"),
    ],
)
def test_mistakes_in_a_class_map(tmp_path, text, complaint):
    path = tmp_path / "classes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_class_map(str(path))
    message = str(caught.value)
    assert message.startswith(f"The class map {path} {complaint}") and message.endswith(".") and "\n" not in message
