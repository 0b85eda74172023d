"""Each unpaired pair of conf/data: on folders drawn here, fetched from here, on the real data where it is at hand."""

import os
import tempfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tiny_runs import composed

from da_lightning.config import CONF_DIR
from da_lightning.config.build import build
from da_lightning.errors import DataError, UserError

COUNT = 130  # digits in each set: the largest batch of any pair
IMAGES = 6
FOLDERS = {
    "horse2zebra": 256, "summer2winter_yosemite": 256, "cat2dog": 256, "edges2shoes": 256, "edges2handbags": 256,
    "facades": 256, "maps": 256,
    "gta2cityscapes_images": 512, "day2dusk": 192, "streets3d2camvid_images": 192, "folders": 256,
    "folders_tested": 256,
}  # fmt: skip
DIGITS = ("mnist2usps", "usps2mnist", "svhn2mnist")
PAIRS = (*FOLDERS, *DIGITS, "toy_shoes")


OTHERS = ("segmentation", "persons", "market_networks", "person_images")  # bases of the other families


def is_unpaired(pair: str) -> bool:
    entries = yaml.safe_load((CONF_DIR / f"data/{pair}.yaml").read_text())["defaults"]
    bases = [entry["base@_here_"] for entry in entries if "base@_here_" in entry and isinstance(entry, dict)]
    return any(base not in OTHERS for base in bases) or any(
        is_unpaired(entry) for entry in entries if isinstance(entry, str) and entry != "_self_"
    )


def test_every_pair_is_here():
    assert set(PAIRS) == {file.stem for file in (CONF_DIR / "data").glob("*.yaml") if is_unpaired(file.stem)}


@pytest.fixture(autouse=True)
def _drawn_data_stay_here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs have a usual place, under ``DA_DATA_DIR`` or ``data``: nothing may be drawn into real data there."""
    if not request.node.originalname.startswith("test_real"):
        monkeypatch.setenv("DA_DATA_DIR", str(tmp_path / "usual_place"))


def save(path: Path, size: tuple[int, int], number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST).save(path, quality=90)


def draw(node: dict[str, Any]) -> None:
    """Draw the folder, or the file, of a configured data set."""
    root, kind = Path(node["root"]), node["_target_"].rpartition(".")[2]
    assert root.is_relative_to(tempfile.gettempdir()), f"{root} may hold real data"
    root.mkdir(parents=True, exist_ok=True)
    if kind == "Digits":
        shape = (32, 32, 3) if node["file"].startswith("svhn") else (16, 16) if "usps" in node["file"] else (28, 28)
        images = np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8)
        np.savez(root / node["file"], images=images, labels=np.arange(COUNT) % 10)
        return
    list_file, size = node["list_file"], (40, 80) if kind == "AlignedImages" else (48, 64)
    names = [f"{Path(list_file or 'x').stem}_{number}.jpg" for number in range(IMAGES)]
    for number, name in enumerate(names):
        save(root / node["folder"] / name, size, number)
    if list_file:
        (root / list_file).parent.mkdir(exist_ok=True)
        (root / list_file).write_text("".join(f"{Path(node['folder'], name)} labels/x.png\n" for name in names))


def filled(tmp_path: Path, pair: str, *overrides: str) -> DictConfig:
    """The options of a pair, with its folders drawn under ``tmp_path``."""
    cfg = composed(f"data={pair}", "data.num_workers=0", *overrides)
    data = cfg.data
    if OmegaConf.is_missing(data, "root"):
        data.root = str(tmp_path / "root")
    nodes = {"source": data.source, "target": data.target}
    nodes |= {f"tests.{name}": node for name, node in data.get("tests", {}).items()}
    for key, node in nodes.items():
        if OmegaConf.is_missing(node, "root"):
            node.root = str(tmp_path / key)
    resolved = OmegaConf.to_container(data, resolve=True)
    for node in (resolved["source"], resolved["target"], *resolved.get("tests", {}).values()):
        if isinstance(node["root"], dict):  # what would be fetched
            node["root"] = node["root"]["folder"]
        draw(node)
    return cfg


def check(data: Any, batch_size: int, crop: tuple[int, int] | None) -> None:
    """Batches are what methods expect, and test images are not among those of training."""
    batch, *_ = next(iter(data.train_dataloader()))
    for domain, sample in batch.items():
        labelled = {"label"} if domain == "source" and data.source_view.dataset.labelled else set()
        assert sample.keys() == {"image", "index"} | labelled
        image = sample["image"]
        assert image.dtype == torch.float32 and -1 <= image.min() < -0.5 and 0.5 < image.max() <= 1
        assert image.shape[:2] == (batch_size, 3) and (crop is None or image.shape[2:] == crop)
    for loader in data.test_dataloader():
        image = next(iter(loader))["image"]
        assert image.dtype == torch.float32 and -1 <= image.min() < image.max() <= 1


@pytest.mark.parametrize("pair", FOLDERS)
def test_pairs_of_folders(tmp_path, pair):
    side = FOLDERS[pair]
    data = build(filled(tmp_path, pair, "data.image_size=24", "data.crop_size=[16,20]").data, "data")
    check(data, 1, (16, 20))
    assert list(data.tests) == ([] if pair == "folders" else ["source", "target"])
    sets = [data.source, data.target, *data.tests.values()]
    files = [{path for _, path in view.dataset.files} for view in sets]
    assert all(files)
    assert files[0].isdisjoint(files[1])
    if pair != "gta2cityscapes_images":  # says so
        assert all(train.isdisjoint(test) for train in files[:2] for test in files[2:])
    options = composed(f"data={pair}").data
    assert options.crop_size == [side, side] and options.flip and options.batch_size == 1


@pytest.mark.parametrize("pair", DIGITS)
def test_pairs_of_digits(tmp_path, pair):
    data = build(filled(tmp_path, pair).data, "data")
    check(data, 64, (32, 32))
    source, target = pair.split("2")
    assert [view.dataset.stem.partition("_")[0] for view in (data.source, data.target)] == [source, target]
    assert [view.dataset.stem for view in data.tests.values()] == [f"{source}_test", f"{target}_test"]
    assert len(data.target) == COUNT * (2 if pair == "svhn2mnist" else 1)
    batch = next(iter(data.test_dataloader()[1]))
    assert batch["image"].shape == (COUNT, 3, 32, 32) and batch["label"].dtype == torch.int64


def test_one_option_centres_all_digits(tmp_path):
    data = build(filled(tmp_path, "usps2mnist", "data.source.centred_in=28").data, "data")
    assert [v.dataset.centred_in for v in (data.source, data.target, *data.tests.values())] == [28] * 4


def test_toy_shoes():
    data = build(composed("data=toy_shoes").data, "data")
    check(data, 4, (64, 64))
    sets = [{v.dataset.name(i) for i in range(len(v))} for v in (data.source, data.target, *data.tests.values())]
    seeds = [{name.partition("_")[2] for name in names} for names in sets]
    assert [len(names) for names in sets] == [1000, 1000, 100, 100]
    assert len(set.union(*seeds)) == 2200


def test_a_pair_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = tmp_path / "served"
    for folder in ("trainA", "trainB", "testA", "testB"):
        save(served / folder / "1.jpg", (300, 300), 1)
    with zipfile.ZipFile(served / "horse2zebra.zip", "w") as archive:
        for file in served.rglob("*.jpg"):
            archive.write(file, f"horse2zebra/{file.relative_to(served)}")
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"data.files.url=http://127.0.0.1:{server.server_port}/horse2zebra.zip"
        options = ["data=horse2zebra", f"data.root={tmp_path}/h2z", url, "data.files.sha256=null", "data.num_workers=0"]
        with pytest.raises(DataError, match=r"h2z\b.*data\.download=true"):
            build(composed(*options).data, "data")
        check(build(composed(*options, "data.download=true").data, "data"), 1, (256, 256))
        server.shutdown()
    check(build(composed(*options).data, "data"), 1, (256, 256))


def test_a_pair_without_a_link_says_so():
    with pytest.raises(UserError, match="no official link to fetch it from"):
        build(composed("data=toy_shoes", "data.download=true").data, "data")


def test_links_are_official():
    hosts = ("http://efrosgans.eecs.berkeley.edu/", "http://vllab.ucmerced.edu/")
    for file in (CONF_DIR / "data").glob("*.yaml"):
        files = yaml.safe_load(file.read_text()).get("files")
        if files:
            assert files["url"].startswith(hosts) and Path(files["url"]).name.startswith(file.stem)
            assert len(files.get("sha256", 64 * "0")) == 64


# -- real data ---------------------------------------------------------------------------------------------------------

REAL = {
    "day2dusk": (["data.root={}/day2dusk"], (305, 62, 171, 21), (192, 192)),
    "streets3d2camvid_images": (
        ["data.source.root={}/streets3d", "data.target.root={}/camvid"], (900, 305, 100, 171), (192, 192),
    ),
    "mnist2usps": (["data.root={}/digits"], (60000, 7291, 5000, 1004), (32, 32)),
    "usps2mnist": (["data.root={}/digits"], (7291, 60000, 1004, 5000), (32, 32)),
    "folders_tested": (
        [
            "data.source.root={}/edges2handbags_mini/trainA", "data.target.root={}/edges2handbags_mini/trainB",
            "data.tests.source.root={}/edges2handbags_mini/testA",
            "data.tests.target.root={}/edges2handbags_mini/testB",
        ],
        (8, 8, 6, 6), (256, 256),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", REAL)
def test_real_data(pair):
    root = os.environ.get("DA_DATA_DIR")
    overrides, counts, crop = REAL[pair]
    folders = [Path(override.partition("=")[2].format(root)) for override in overrides]
    if root is None or not all(folder.is_dir() for folder in folders):
        pytest.skip("DA_DATA_DIR is not set to a folder that holds this pair")
    options = [override.format(root) for override in overrides]
    data = build(composed(f"data={pair}", "data.num_workers=0", *options).data, "data")
    assert tuple(len(view) for view in (data.source, data.target, *data.tests.values())) == counts
    check(data, data.batch_sizes["source"], crop)


@pytest.mark.parametrize(("file", "middle"), [("mnist_test.npz", 0.6), ("usps_test.npz", 0.6)])
def test_real_digits_centred_by_mass(file, middle):
    root = Path(os.environ.get("DA_DATA_DIR", "nowhere")) / "digits"
    if not (root / file).is_file():
        pytest.skip("DA_DATA_DIR is not set to a folder that holds digits/")
    from da_lightning.translation.datasets import Digits

    dataset = Digits(root, file, centred_in=28, limit=200)
    for index in range(len(dataset)):
        image = dataset[index]["image"][0].double()
        for axis in (0, 1):
            mass = image.sum(1 - axis)
            assert abs((mass * torch.arange(28)).sum() / mass.sum() - 13.5) < middle
