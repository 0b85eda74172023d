import inspect
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from PIL import Image
from torch.utils.data import DataLoader

import da_lightning.segmentation.datasets as datasets
import da_lightning.toy.streets as streets
from da_lightning.config import CONF_DIR
from da_lightning.errors import DataError
from da_lightning.segmentation.datasets import (
    BDD100K,
    CARLA,
    GTA5,
    SYNTHIA,
    CamVid,
    Cityscapes,
    CrossCity,
    ImageLabelFolder,
    ToyStreets,
)

SIZE = (6, 8)
# Ids of the 19 classes, written down by name so that they check the tables in the package.
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
SYNTHIA_IDS = {
    "sky": 1, "building": 2, "road": 3, "sidewalk": 4, "fence": 5, "vegetation": 6, "pole": 7, "car": 8,
    "traffic sign": 9, "person": 10, "bicycle": 11, "motorcycle": 12, "traffic light": 15, "terrain": 16, "rider": 17,
    "truck": 18, "bus": 19, "train": 20, "wall": 21,
}  # fmt: skip


def class_names(space: str) -> list[str]:
    return list(yaml.safe_load((CONF_DIR / f"data/classes/{space}.yaml").read_text())["classes"])


def expected(ids: np.ndarray, id_of: dict[str, int], names: list[str]) -> torch.Tensor:
    label = np.full(ids.shape, 255, np.uint8)
    for position, name in enumerate(names):
        if name in id_of:
            label[ids == id_of[name]] = position
    return torch.from_numpy(label)


def ids_up_to(count: int, seed: int = 0) -> np.ndarray:
    """A label map in which each id below ``count`` occurs if there is room."""
    return np.random.default_rng(seed).permutation(np.arange(SIZE[0] * SIZE[1]) % count).reshape(SIZE).astype(np.uint8)


def save_image(path: Path, size: tuple[int, int] = SIZE, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, value + 1, value + 2)).save(path)


def save_ids(path: Path, ids: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if palette:
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def save_16_bit_rgb(path: Path, pixels: np.ndarray) -> None:
    """A PNG as the specification has it: big-endian samples, no line filter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def complaint(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# Each layout: two images and labels at tmp_path, how to open it, and the names and labels that must come out.


def cityscapes(root: Path):
    names = ["aachen/aachen_000000_000019", "bochum/bochum_000001_000019"]
    ids = [ids_up_to(34), ids_up_to(34, 1)]
    for name, label in zip(names, ids, strict=True):
        save_image(root / f"leftImg8bit/train/{name}_leftImg8bit.png")
        save_ids(root / f"gtFine/train/{name}_gtFine_labelIds.png", label)
        save_ids(root / f"gtFine/train/{name}_gtFine_instanceIds.png", label)
        save_image(root / f"gtFine/train/{name}_gtFine_color.png")
    return Cityscapes, {}, names, [expected(label, CITYSCAPES, class_names("cityscapes19")) for label in ids]


def gta5(root: Path):
    ids = [ids_up_to(35), ids_up_to(35, 1)]
    for number, label in enumerate(ids, 1):
        save_image(root / f"images/{number:05d}.png")
        save_ids(root / f"labels/{number:05d}.png", label, palette=True)
    return GTA5, {}, ["00001", "00002"], [expected(label, CITYSCAPES, class_names("cityscapes19")) for label in ids]


def synthia(root: Path):
    ids = [ids_up_to(23), ids_up_to(23, 1)]
    for number, label in enumerate(ids):
        save_image(root / f"RGB/{number:07d}.png")
        instances = np.random.default_rng(number).integers(0, 2**16, (2, *SIZE))
        save_16_bit_rgb(root / f"GT/LABELS/{number:07d}.png", np.stack([label, *instances], -1))
        save_image(root / f"GT/COLOR/{number:07d}.png")
    return SYNTHIA, {}, ["0000000", "0000001"], [expected(i, SYNTHIA_IDS, class_names("cityscapes16")) for i in ids]


def cross_city(root: Path):
    ids = [ids_up_to(34), ids_up_to(34, 1)]
    for number, label in enumerate(ids):
        save_image(root / f"Rome/Images/Test/pano_{number}.{'jpg' if number else 'png'}")
        save_ids(root / f"Rome/Labels/Test/pano_{number}_eval.png", label)
    save_image(root / "Rio/Images/Test/elsewhere.png")
    labels = [expected(label, CITYSCAPES, class_names("cityscapes13")) for label in ids]
    return CrossCity, {"city": "Rome", "split": "test"}, ["pano_0", "pano_1"], labels


def bdd100k(root: Path, images="images/10k", labels="labels/sem_seg/masks", ending=""):
    ids = [np.where(ids_up_to(20, seed) == 19, 255, ids_up_to(20, seed)).astype(np.uint8) for seed in (0, 1)]
    for number, label in enumerate(ids):
        save_image(root / f"{images}/val/{number}-f.jpg")
        save_ids(root / f"{labels}/val/{number}-f{ending}.png", label)
    return BDD100K, {"split": "val"}, ["0-f", "1-f"], [torch.from_numpy(label) for label in ids]


def bdd100k_older(root: Path):
    return bdd100k(root, "seg/images", "seg/labels", "_train_id")


def camvid(root: Path):
    ids = [ids_up_to(12), ids_up_to(12, 1)]
    for number, label in enumerate(ids):
        save_image(root / f"train/{number}.jpg")
        save_ids(root / f"trainannot/{number}.png", label)
    # One line names its label, one leaves it to the folder rule.
    (root / "train.txt").write_text("train/0.jpg trainannot/0.png\ntrain/1.jpg\n")
    labels = [torch.from_numpy(np.where(label == 11, 255, label)) for label in ids]
    return CamVid, {}, ["train/0", "train/1"], labels


def carla(root: Path):
    ids = [ids_up_to(13), ids_up_to(13, 1)]
    camvid_of = {
        "Building": (1, 11), "Fence": (2,), "Pedestrian": (4,), "Pole": (5,), "Road": (6, 7), "Pavement": (8,),
        "Tree": (9,), "Car": (10,), "SignSymbol": (12,),
    }  # fmt: skip
    labels = []
    for number, tags in enumerate(ids):
        save_image(root / f"train/CameraRGB/{number}.png")
        save_ids(root / f"train/CameraSeg/{number}.png", np.stack([tags, 0 * tags, 0 * tags], -1))
        label = torch.full(SIZE, 255, dtype=torch.uint8)
        for name, its_tags in camvid_of.items():
            label[torch.from_numpy(np.isin(tags, its_tags))] = class_names("camvid11").index(name)
        label[-2:] = 255
        labels.append(label)
    return CARLA, {"ignore_bottom": 2}, ["0", "1"], labels


def image_label_folder(root: Path):
    ids = [ids_up_to(3), ids_up_to(3, 1)]
    for folder, label in zip("ab", ids, strict=True):
        save_image(root / f"pictures/{folder}/1.jpg")
        save_ids(root / f"maps/{folder}/1.png", 100 * label)
    options = {"num_classes": 2, "ids": {0: 1, 100: 255, 200: 0}, "images": "pictures", "labels": "maps"}
    table = torch.tensor([1, 255, 0], dtype=torch.uint8)
    return ImageLabelFolder, options, ["a/1", "b/1"], [table[torch.from_numpy(label).int()] for label in ids]


LAYOUTS = [cityscapes, gta5, synthia, cross_city, bdd100k, bdd100k_older, camvid, carla, image_label_folder]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


@every_layout
def test_labelled_items(tmp_path, layout):
    cls, options, names, labels = layout(tmp_path)
    dataset = cls(tmp_path, **options, labelled=True)
    assert len(dataset) == 2 and dataset.labelled
    assert [dataset.name(i) for i in range(2)] == names
    for item, label in zip((dataset[0], dataset[1]), labels, strict=True):
        assert item.keys() == {"image", "label"}
        assert item["image"].shape == (3, *SIZE) and item["image"].dtype == torch.uint8
        assert item["image"].float().mean((1, 2)).tolist() == pytest.approx([100, 101, 102], abs=2)
        assert item["label"].dtype == torch.uint8
        assert torch.equal(item["label"], label)
        assert label[label != 255].max() < dataset.num_classes


@every_layout
def test_unlabelled_items_need_no_label_files(tmp_path, layout):
    cls, options, names, _ = layout(tmp_path)
    labelled = cls(tmp_path, **options, labelled=True)
    for sample in labelled.samples:  # garbage first, then gone
        sample.label.write_bytes(b"garbage")
    assert str(labelled.samples[0].label) in complaint(lambda: labelled[0])
    for _ in range(2):
        dataset = cls(str(tmp_path), **options, labelled=False)
        assert not dataset.labelled and [dataset.name(i) for i in range(2)] == names
        assert dataset[1].keys() == {"image"}
        for sample in labelled.samples:
            shutil.rmtree(sample.label.parent, ignore_errors=True)
    complaint(cls, tmp_path, **options, labelled=True)


@every_layout
def test_an_image_without_a_label_and_the_reverse(tmp_path, layout):
    cls, options, *_ = layout(tmp_path)
    image, label = cls(tmp_path, **options, labelled=True).samples[1][1:]
    away = tmp_path / "away.png"
    for missing, other in ((label, image), (image, label)):
        named = missing if layout is camvid else other
        missing.rename(away)
        assert str(named) in complaint(cls, tmp_path, **options, labelled=True)
        away.rename(missing)


@every_layout
def test_a_wrong_root_says_what_was_expected_and_found(tmp_path, layout):
    cls, options, *_ = layout(tmp_path / "set")
    message = complaint(cls, tmp_path, **options, labelled=False)
    assert "holds set" in message
    assert ("train.txt" if layout is camvid else "or let root be the folder that holds") in message


@every_layout
def test_loads_in_worker_processes(tmp_path, layout):
    cls, options, _, labels = layout(tmp_path)
    batch = next(iter(DataLoader(cls(tmp_path, **options, labelled=True), 2, num_workers=1)))
    assert torch.equal(batch["label"], torch.stack(labels))


@pytest.mark.parametrize("num_classes", [19, 16, 13])
@pytest.mark.parametrize("layout", [cityscapes, gta5, synthia, cross_city])
def test_class_spaces(tmp_path, layout, num_classes):
    cls, options, *_ = layout(tmp_path)
    dataset = cls(tmp_path, **options, num_classes=num_classes, labelled=True)
    ids, id_of = (ids_up_to(23), SYNTHIA_IDS) if cls is SYNTHIA else (ids_up_to(35 if cls is GTA5 else 34), CITYSCAPES)
    assert torch.equal(dataset[0]["label"], expected(ids, id_of, class_names(f"cityscapes{num_classes}")))
    assert dataset.num_classes == num_classes


def test_class_space_of_train_ids(tmp_path):
    bdd100k(tmp_path)
    names = class_names("cityscapes19")
    label, smaller = (BDD100K(tmp_path, "val", num_classes=n)[0]["label"] for n in (19, 13))
    train_ids = {name: position for position, name in enumerate(names)}
    assert torch.equal(smaller, expected(label.numpy(), train_ids, class_names("cityscapes13")))
    assert "num_classes=15" in complaint(BDD100K, tmp_path, "val", num_classes=15)


def test_synthia_reads_labels_of_one_channel(tmp_path):
    _, _, _, labels = synthia(tmp_path)
    for number in (0, 1):
        save_ids(tmp_path / f"parsed_LABELS/{number:07d}.png", ids_up_to(23, number))
    assert torch.equal(SYNTHIA(tmp_path, labels="parsed_LABELS")[1]["label"], labels[1])


def test_labels_of_16_bits_and_one_channel(tmp_path):
    save_image(tmp_path / "images/a.png")
    save_ids(tmp_path / "labels/a.png", 1000 * ids_up_to(2).astype(np.uint16))
    dataset = ImageLabelFolder(tmp_path, 2, {0: 1, 1000: 0})
    assert torch.equal(dataset[0]["label"], torch.from_numpy(1 - ids_up_to(2)))


def test_list_file_selects_and_orders(tmp_path):
    cityscapes(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/one.txt").write_text("bochum/bochum_000001_000019_leftImg8bit.png\n")
    (tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png").unlink()
    for list_file in ("lists/one.txt", str(tmp_path / "lists/one.txt")):
        dataset = Cityscapes(tmp_path, list_file=list_file)
        assert [dataset.name(0)] == ["bochum/bochum_000001_000019"] and len(dataset) == 1
    (tmp_path / "lists/one.txt").write_text("\nbochum/nowhere.png\n")
    assert f"Line 2 of {tmp_path}/lists/one.txt" in complaint(Cityscapes, tmp_path, list_file="lists/one.txt")
    assert "lists/two.txt" in complaint(Cityscapes, tmp_path, list_file="lists/two.txt")


def test_camvid_list_as_published(tmp_path):
    camvid(tmp_path)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/0.jpg /SegNet/CamVid/trainannot/0.png\n")
    assert CamVid(tmp_path).name(0) == "train/0"


def test_camvid_names_stay_inside_a_folder(tmp_path):
    camvid(tmp_path / "set")
    save_image(tmp_path / "other/0.jpg")
    (tmp_path / "set/train.txt").write_text(f"../other/0.jpg\n{tmp_path}/set/train/1.jpg\n")
    dataset = CamVid(tmp_path / "set", labelled=False)
    assert [dataset.name(0), dataset.name(1)] == ["other/0", f"{tmp_path}/set/train/1".lstrip("/")]


def test_camvid_list_errors_name_the_line(tmp_path):
    camvid(tmp_path)
    (tmp_path / "train.txt").write_text("train/0.jpg\ntrain/7.jpg\n")
    message = complaint(CamVid, tmp_path, labelled=False)
    assert f"Line 2 of {tmp_path}/train.txt" in message and f"{tmp_path}/train/7.jpg" in message
    (tmp_path / "train.txt").write_text("train/0.jpg\ntrain/0.jpg\n")
    assert "Line 2" in complaint(CamVid, tmp_path)
    (tmp_path / "train.txt").write_text("train/0.jpg trainannot/7.png\n")
    assert f"{tmp_path}/trainannot/7.png" in complaint(CamVid, tmp_path)
    assert len(CamVid(tmp_path, labelled=False)) == 1


def test_sizes_that_differ(tmp_path):
    gta5(tmp_path)
    save_image(tmp_path / "images/00002.png", (4, 5))
    dataset = GTA5(tmp_path)
    dataset[0]
    message = complaint(lambda: dataset[1])
    for part in (f"{tmp_path}/images/00002.png is 5x4", f"{tmp_path}/labels/00002.png is 8x6"):
        assert part in message


@pytest.mark.parametrize(("layout", "known"), [(camvid, 12), (cityscapes, 34), (gta5, 35), (synthia, 23), (carla, 13)])
def test_unknown_ids_are_refused(tmp_path, layout, known):
    cls, options, *_ = layout(tmp_path)
    dataset = cls(tmp_path, **options)
    save_ids(dataset.samples[0].label, np.full(SIZE, 37, np.uint8))
    message = complaint(lambda: dataset[0])
    assert f"{dataset.samples[0].label} holds the ids [37]" in message
    assert str([*range(known), 255]) in message


def test_labels_that_are_pictures_are_refused(tmp_path):
    gta5(tmp_path)
    save_image(tmp_path / "labels/00001.png")
    message = complaint(lambda: GTA5(tmp_path)[0])
    assert f"{tmp_path}/labels/00001.png has mode RGB" in message


def test_own_ids_are_checked(tmp_path):
    image_label_folder(tmp_path)
    options = {"num_classes": 2, "images": "pictures", "labels": "maps"}
    assert "200 to 2" in complaint(ImageLabelFolder, tmp_path, ids={0: 1, 200: 2}, **options)
    assert "-1 to 0" in complaint(ImageLabelFolder, tmp_path, ids={-1: 0}, **options)
    assert "[100, 200]" in complaint(lambda: ImageLabelFolder(tmp_path, **options)[0])


def test_ignoring_more_rows_than_there_are(tmp_path):
    carla(tmp_path)
    assert CARLA(tmp_path, ignore_bottom=100)[0]["label"].unique().tolist() == [255]
    assert (CARLA(tmp_path, ignore_bottom=0)[0]["label"][-1] != 255).any()


def test_toy_streets():
    dataset = ToyStreets("game", 3, first_seed=5, size=(48, 64))
    image, label = streets.render_street(6, "game", (48, 64))
    assert len(dataset) == 3 and [dataset.name(i) for i in range(3)] == ["game_000005", "game_000006", "game_000007"]
    assert torch.equal(dataset[1]["image"], torch.tensor(image).permute(2, 0, 1))
    assert torch.equal(dataset[1]["label"], torch.tensor(label))
    unlabelled = ToyStreets("camera", 1, labelled=False)
    assert unlabelled[0].keys() == {"image"} and not unlabelled.labelled
    assert class_names("toy_streets") == list(streets.CLASSES)
    assert yaml.safe_load((CONF_DIR / "data/classes/toy_streets.yaml").read_text())["classes"] == streets.CLASSES


OF_THIS_FAMILY = [
    path for path in sorted((CONF_DIR / "data/dataset").glob("*.yaml")) if datasets.__name__ in path.read_text()
]


@pytest.mark.parametrize("path", OF_THIS_FAMILY, ids=lambda path: path.stem)
def test_options_are_those_of_the_class(path):
    node = yaml.safe_load(path.read_text())
    target = node.pop("_target_")
    parameters = inspect.signature(getattr(datasets, target.rsplit(".", 1)[1])).parameters
    assert list(node) == list(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            value = tuple(node[name]) if isinstance(node[name], list) else node[name]
            assert value == parameter.default, name
        elif name == "root":
            assert node[name] == "???"


@pytest.mark.parametrize("size", [19, 16, 13])
def test_a_pair_composes_data_sets_and_classes(tmp_path, size):
    (tmp_path / "data").mkdir()
    for group in ("dataset", "classes"):
        shutil.copytree(CONF_DIR / "data" / group, tmp_path / "data" / group)
    (tmp_path / "data/pair.yaml").write_text(
        f"defaults: [classes/cityscapes{size}, dataset/gta5@source, dataset/cityscapes@target, _self_]\n"
        f"source: {{num_classes: {size}}}\ntarget: {{labelled: false}}\n"
    )
    (tmp_path / "config.yaml").write_text("defaults: [data: pair]\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        data = compose("config").data
    assert set(data) == {"classes", "source", "target"} and len(data.classes) == size
    assert data.source.num_classes == size and data.target.split == "train" and not data.target.labelled
    colours = [tuple(colour) for colour in data.classes.values()]
    assert len(set(colours)) == size and {len(colour) for colour in colours} == {3}


@pytest.fixture(scope="module")
def real_data() -> Path:
    if "DA_DATA_DIR" not in os.environ:
        pytest.skip("DA_DATA_DIR is not set")
    return Path(os.environ["DA_DATA_DIR"])


def folder_of(real_data: Path, name: str) -> Path:
    if not (real_data / name).is_dir():
        pytest.skip(f"DA_DATA_DIR has no {name}")
    return real_data / name


def shares(dataset) -> np.ndarray:
    """Per cent of pixels of classes 0..10 and, last, ignored."""
    counts = sum(torch.bincount(dataset[i]["label"].flatten().long(), minlength=256) for i in range(len(dataset)))
    return (100 * counts / counts.sum()).numpy()[[*range(11), 255]]


def test_real_camvid(real_data):
    root = folder_of(real_data, "camvid")
    day, dusk = CamVid(root, "lists/day_train.txt"), CamVid(root, "lists/dusk_train.txt", labelled=False)
    oracle = CamVid(root, "lists/dusk_train.txt")
    assert [len(day), len(dusk), len(oracle)] == [305, 62, 62]
    assert dusk[0].keys() == {"image"} and dusk.name(0) == oracle.name(0) == "train/0001TP_006690"
    published = [18.83, 28.30, 0.88, 18.68, 4.39, 11.06, 1.16, 0.42, 8.77, 0.67, 0.53, 6.32]
    assert shares(oracle) == pytest.approx(published, abs=0.01)
    day.samples = day.samples[::30]
    assert shares(day)[[0, 1, 3]] == pytest.approx([16.4, 22.2, 34.3], abs=6)


def test_real_streets3d(real_data):
    dataset = CamVid(folder_of(real_data, "streets3d"))
    assert len(dataset) == 900 and dataset.name(0) == "images/00001"
    dataset.samples = dataset.samples[::60]
    published = [16.42, 24.11, 0.97, 33.24, 6.53, 9.66, 1.16, 1.26, 5.01, 0.99, 0.53, 0.11]
    assert shares(dataset) == pytest.approx(published, abs=5)


def test_real_carla(real_data):
    root = folder_of(real_data, "carla_lyft_mini")
    dataset, whole = CARLA(root), CARLA(root, ignore_bottom=0)
    assert len(dataset) == 3 and len(CARLA(root, "val")) == 1
    label, car = dataset[0]["label"], class_names("camvid11").index("Car")
    assert label.shape == (600, 800) and (label[-100:] == 255).all()
    assert (whole[0]["label"][-50:] == car).float().mean() > 0.5  # the bonnet
    assert set(label.unique().tolist()) <= {1, 2, 3, 4, 5, 6, 7, 8, 9, 255}
