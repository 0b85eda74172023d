"""Sets of people as their users have them, and sentences about what is wrong with them."""

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from da_lightning.errors import DataError
from da_lightning.reid.datasets import MSMT17, Market, PersonManifest, QueryGallery, RandPerson, UnrealPerson

MARKET = {
    "0002_c1s1_000451_03": (2, 1),  # Market-1501
    "-1_c3s2_000001_00": (-1, 3),
    "0000_c6s4_018352_02": (0, 6),
    "0005_c2_f0044158": (5, 2),  # DukeMTMC-reID
    "0007_c12_0013": (7, 12),  # MSMT17, repacked
    "0009_c10_0001": (9, 10),  # PersonX
    "1_c0001_2": (1, 1),  # ClonedPerson
    "duke_0011_c8_f0044158": (11, 8),  # SPGAN's outputs
    "0002_c1s1_000551_01_fake_1to2": (2, 1),
    "77_c4": (77, 4),
}


def save(path: Path, value: int | None = None, suffix: str = ".jpg") -> Path:
    """An image that is like no other, unless a value is given."""
    save.count = getattr(save, "count", 0) + 1
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16)).save(path, comment=str(save.count if value is None else -value))
    return path


def folder(root: Path, *names: str) -> Path:
    for name in names:
        save(root / name)
    return root


def complaint(function, *arguments, **options) -> str:
    with pytest.raises(DataError) as error:
        function(*arguments, **options)
    return str(error.value)


def facts(dataset) -> dict[str, tuple[int, int]]:
    return {dataset.name(i): (dataset.persons[i], dataset.cameras[i]) for i in range(len(dataset))}


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_of_the_market_format_parse(tmp_path):
    dataset = Market(folder(tmp_path / "exp_12_c3", *MARKET, "cam/0003_c5s1_000001_00"))
    assert facts(dataset) == MARKET | {"cam/0003_c5s1_000001_00": (3, 5)}
    names = [dataset.name(i) for i in range(len(dataset))]
    assert names == sorted(names)
    item = dataset[names.index("0007_c12_0013")]
    assert item["image"].shape == (3, 16, 8) and item["image"].dtype == torch.uint8
    assert (item["person"], item["camera"]) == (7, 12)


def test_unlabelled_folders_need_no_more_than_a_camera(tmp_path):
    dataset = Market(folder(tmp_path, *MARKET, "hall_c11_000451", "c3_7", "door_c2s1_x"), labelled=False)
    assert dataset.persons == [] and dataset[0].keys() == {"image", "camera"}
    cameras = {dataset.name(i): dataset.cameras[i] for i in range(len(dataset))}
    assert cameras == {name: c for name, (_, c) in MARKET.items()} | {
        "hall_c11_000451": 11,
        "c3_7": 3,
        "door_c2s1_x": 2,
    }


@pytest.mark.parametrize("name", ["photo", "0002c1s1_000451", "c1_0002", "0002_cam1_7", "x1_0002_c1_3", "0002_c_3"])
def test_names_that_do_not_parse(tmp_path, name):
    folder(tmp_path / "0001_c1s1", "0002_c1s1_000451_03", name)
    message = complaint(Market, tmp_path)
    assert message.startswith("1 of 2 file names are not like 0002_c1s1_000451_03.jpg")
    assert f"the first is {tmp_path / '0001_c1s1' / name}.jpg" in message
    if name in ("photo", "0002c1s1_000451"):
        assert "hall_c3_7.jpg" in complaint(Market, tmp_path, labelled=False)


def test_folders_that_are_not_there(tmp_path):
    (tmp_path / "query").mkdir()
    assert "bounding_box_train, which does not exist" in complaint(Market, tmp_path, "bounding_box_train")
    assert "query, which has none" in complaint(Market, tmp_path, "query")


def test_a_name_is_taken_once(tmp_path):
    for suffix in (".jpg", ".png"):
        save(tmp_path / "0002_c1s1_000451_03", suffix=suffix)
    assert "would both be called 0002_c1s1_000451_03" in complaint(Market, tmp_path)


def test_copies_and_other_counts_are_told_of(tmp_path, caplog):
    for name, value in (("0002_c1_a", 7), ("0002_c2_b", 7), ("0003_c1_c", 9), ("0002_c1_d", 8)):
        save(tmp_path / "query" / name, value)
    with caplog.at_level(logging.WARNING):
        Market(tmp_path, "query", counts_of="market1501")
    counts, copies = caplog.messages
    assert "has 3368 images, this one has 4" in counts
    assert copies.startswith("1 images occur twice, the first is ") and "0002_c2_b.jpg, the same as" in copies
    caplog.clear()
    Market(tmp_path, "query", labelled=False)
    assert caplog.messages == [copies]
    caplog.clear()
    save(tmp_path / "query" / "0003_c2_e", 8)
    with caplog.at_level(logging.WARNING):
        Market(tmp_path, "query")
    assert "0002_c1_d.jpg: labelled as two persons: remove the wrong one." in caplog.messages[1]


# -- lists -------------------------------------------------------------------------------------------------------------


def msmt17(root: Path, folders: tuple[str, str] = ("train", "test")) -> Path:
    lists = {
        "list_train.txt": (
            folders[0],
            [("0000/0000_000_01_0303morning_0015_0.jpg", 0), ("0001/0001_003_12_0303noon_1.jpg", 1)],
        ),
        "list_val.txt": (folders[0], [("0000/0000_040_04_0303noon_0005_1.jpg", 0)]),
        "list_query.txt": (folders[1], [("0000/0000_000_15_0303noon_0005_1.jpg", 0)]),
        "list_gallery.txt": (folders[1], [("0000/0000_001_02_0303noon_0005_1.jpg", 0)]),
    }
    for list_file, (place, rows) in lists.items():
        for path, _ in rows:
            save(root / place / path.removesuffix(".jpg"))
        (root / list_file).write_text("".join(f"{path} {person}\n" for path, person in rows))
    return root


def test_msmt17(tmp_path, caplog):
    dataset = MSMT17(msmt17(tmp_path))
    assert list(facts(dataset).items()) == [
        ("0000/0000_000_01_0303morning_0015_0", (1, 1)),
        ("0001/0001_003_12_0303noon_1", (2, 12)),
        ("0000/0000_040_04_0303noon_0005_1", (1, 4)),
    ]
    assert "has 32621 images, this one has 3" in caplog.text
    test = QueryGallery(MSMT17(tmp_path, "query"), MSMT17(tmp_path, "gallery"))
    assert (test.persons, test.cameras) == ([1, 1], [15, 2])
    unlabelled = MSMT17(tmp_path, "train", labelled=False)
    assert unlabelled[1].keys() == {"image", "camera"} and unlabelled.cameras == [1, 12]


def test_versions_of_msmt17(tmp_path):
    msmt17(tmp_path, ("mask_train_v2", "mask_test_v2"))
    assert len(MSMT17(tmp_path, version=2)) == 3
    assert "no folder train but mask_train_v2: set version=2" in complaint(MSMT17, tmp_path)
    assert "list_train.txt cannot be read" in complaint(MSMT17, tmp_path / "none")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg", "Line 3 of .* is not like"),
        ("0000_01.jpg 0", "Line 3 of .* is not like"),
        ("0000/0000_000_01_0303morning_0015_0.jpg x", "gives 'x' as person"),
        ("0000/0000_000_01_0303morning_0015_0.jpg 0", "name each image once"),
        (
            "0000/0000_000_01_0303morning_0015_1.jpg 0",
            "names 0000/0000_000_01_0303morning_0015_1.jpg, which is no file",
        ),
        ("../0000_000_01_0303morning_0015_1.jpg 0", "which is no file"),
    ],
)
def test_lines_that_msmt17_does_not_have(tmp_path, line, expected):
    with (msmt17(tmp_path) / "list_train.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=expected):
        MSMT17(tmp_path, "train")


def test_rendered_sets(tmp_path):
    names = ("000000_s00_c00_f000264", "000000_s10_c01_f000264", "007999_c03_s02_f000001")
    folder(tmp_path / "randperson_subset", *names)
    assert list(facts(RandPerson(tmp_path)).values()) == [(1, 0), (1, 1001), (8000, 302)]
    folder(tmp_path / "randperson_subset", "000000_s00_f000264")
    assert "000000_s00_c00_f000264.jpg" in complaint(RandPerson, tmp_path)
    folder(tmp_path / "unreal_v1.1" / "images", "a", "b")
    lines = ["unreal_v1.1/images/b.jpg 0 3", "./unreal_v1.1/images/a.jpg 2999 33"]
    (tmp_path / "list_unreal_train.txt").write_text("\n".join(lines))
    dataset = UnrealPerson(tmp_path)
    assert facts(dataset) == {"unreal_v1.1/images/b": (1, 3), "unreal_v1.1/images/a": (3000, 33)}
    (tmp_path / "list_unreal_train.txt").write_text("unreal_v1.1/images/b.jpg 0")
    assert "has 2 columns" in complaint(UnrealPerson, tmp_path)


def test_manifests(tmp_path):
    folder(tmp_path, "a", "b", "in/c d")
    (tmp_path / "all.csv").write_text(
        "id,camera,path,split,note\n4,1,a.jpg,query,x\n4,2,b.jpg,gallery,\n0,2,in/c d.jpg,gallery,\n"
    )
    query, gallery = (PersonManifest(tmp_path, "all.csv", split) for split in ("query", "gallery"))
    assert facts(query) == {"a": (4, 1)} and facts(gallery) == {"b": (4, 2), "in/c d": (0, 2)}
    assert len(QueryGallery(query, gallery)) == len(PersonManifest(tmp_path, "all.csv")) == 3
    (tmp_path / "manifest.csv").write_text("﻿path,camera\na.jpg,7\n")
    assert PersonManifest(tmp_path, labelled=False)[0]["camera"] == 7


@pytest.mark.parametrize(
    ("content", "split", "expected"),
    [
        (None, None, "manifest.csv cannot be read"),
        ("path,id\na.jpg,1\n", None, "has no column camera but path, id"),
        ("path,id,camera\na.jpg,1,1\n", "query", "has no column split but"),
        ("path,id,camera,split\na.jpg,1,1,test\n", "query", "names no image of split query, only of test"),
        ("path,id,camera\n", None, "names no image: "),
        ("path,id,camera\na.jpg,1\n", None, "Line 2 of .* has fewer columns"),
        ("path,id,camera\na.jpg,Anna,1\n", None, "gives 'Anna' as person"),
        ("path,id,camera\n/a.jpg,1,1\n", None, "which is no file in"),
        ("path,id,camera\na.jpg,1,1\na.jpg,1,2\n", None, "name each image once"),
    ],
)
def test_mistakes_in_manifests(tmp_path, content, split, expected):
    folder(tmp_path, "a")
    if content is not None:
        (tmp_path / "manifest.csv").write_text(content)
    with pytest.raises(DataError, match=expected):
        PersonManifest(tmp_path, split=split)


# -- query and gallery -------------------------------------------------------------------------------------------------


def sets(root: Path, query: list[str], gallery: list[str]) -> tuple[Market, Market]:
    return Market(folder(root / "query", *query)), Market(folder(root / "gallery", *gallery))


def test_query_and_gallery_are_one(tmp_path):
    test = QueryGallery(*sets(tmp_path, ["0001_c1_a"], ["-1_c1_b", "0000_c2_c", "0001_c2_d"]))
    assert [test[i]["is_query"] for i in range(4)] == test.is_query == [True, False, False, False]
    assert test.persons == [1, -1, 0, 1] and test.cameras == [1, 1, 2, 2]
    assert [test.name(i) for i in (0, 3)] == ["query/0001_c1_a", "gallery/0001_c2_d"]
    assert test[1].keys() == {"image", "person", "camera", "is_query"} and test[3]["person"] == 1


@pytest.mark.parametrize(
    ("query", "gallery", "expected"),
    [
        (
            ["0001_c1_a"],
            ["0002_c2_b", "0003_c2_c", "-1_c1_d"],
            "its persons (2, 3) are others than those of the query (1)",
        ),
        (["0001_c1_a", "0002_c1_b"], ["0001_c1_c", "0002_c1_d"], "all images are of camera 1"),
        (
            ["0001_c1_a", "0002_c2_b"],
            ["0001_c1_c"],
            "1 of 2 queries are of a person who is absent from it (2), all others",
        ),
        (["0000_c1_a"], ["0001_c2_b"], "1 queries are of person 0"),
    ],
)
def test_nothing_to_find(tmp_path, query, gallery, expected):
    assert expected in complaint(QueryGallery, *sets(tmp_path, query, gallery))


def test_queries_without_anything_to_find_are_told_of(tmp_path, caplog):
    query = ["0001_c1_a", "0002_c1_b", "0003_c1_c", "0003_c2_d"]
    QueryGallery(*sets(tmp_path, query, ["0001_c1_e", "0001_c2_e", "0003_c1_f"]))
    [message] = caplog.messages
    assert message.startswith("2 of 4 queries have nothing to find")
    assert "that of 1 is seen there by the query's own camera alone (3)" in message and "gallery (2)" in message


def test_a_query_must_not_be_found_in_itself(tmp_path):
    query, gallery = sets(tmp_path, ["0001_c1_a"], ["0001_c2_b"])
    save(tmp_path / "gallery" / "0001_c1_c", 200)
    save(tmp_path / "query" / "0001_c1_d", 200)  # dropped from its ranking anyway
    assert len(QueryGallery(Market(tmp_path / "query"), Market(tmp_path / "gallery"))) == 4
    save(tmp_path / "gallery" / "0001_c3_e", 200)
    message = complaint(QueryGallery, Market(tmp_path / "query"), Market(tmp_path / "gallery"))
    assert "0001_c3_e.jpg in the gallery is the query" in message and "0001_c1_d.jpg itself" in message


def test_tests_need_labels(tmp_path):
    query, gallery = sets(tmp_path, ["0001_c1_a"], ["0001_c2_b"])
    assert "set gallery.labelled=true" in complaint(QueryGallery, query, Market(tmp_path / "gallery", labelled=False))


# -- real files --------------------------------------------------------------------------------------------------------


def test_rendered_people_are_as_many_as_their_authors_say(caplog):
    root = Path(os.environ.get("DA_DATA_DIR", "")) / "people3d"
    if "DA_DATA_DIR" not in os.environ or not root.is_dir():
        pytest.skip("DA_DATA_DIR names no folder with people3d")
    train = Market(root / "campus", "bounding_box_train")
    assert len(train) == 2617 and len(set(train.persons)) == 220
    assert [Counter(train.cameras)[camera] for camera in range(1, 7)] == [432, 422, 401, 452, 429, 481]
    test = QueryGallery(Market(root / "mall", "query"), Market(root / "mall", "bounding_box_test"))
    assert (len(test.query), len(test.gallery), len(set(test.query.persons))) == (647, 1643, 150)
    assert (test.persons.count(0), test.persons.count(-1)) == (303, 200)
    assert not caplog.messages
