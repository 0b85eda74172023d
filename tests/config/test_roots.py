"""Where data sets are looked for, and what is said where there is none."""

import os
import re
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from tiny_runs import command, composed, write_digits

from da_lightning.config import CONF_DIR
from da_lightning.config.build import build
from da_lightning.config.roots import check_roots
from da_lightning.errors import DataError

OWN = (  # folders of one's own, which nobody can guess
    "folders", "folders_tested", "image_label_folders", "image_label_folders_tested", "person_camera_pair",
    "person_cameras", "person_folders", "person_folders_tested", "person_images",
)  # fmt: skip
FOLDERS = {
    "camvid_day2dusk": {"camvid"},
    "carla2camvid": {"carla", "camvid"},
    "cat2dog": {"cat2dog"},
    "cityscapes2bdd100k": {"cityscapes", "bdd100k"},
    "cityscapes2crosscity": {"cityscapes", "crosscity"},
    "day2dusk": {"day2dusk"},
    "duke2market": {"dukemtmc", "market1501"},
    "edges2handbags": {"edges2handbags"},
    "edges2shoes": {"edges2shoes"},
    "facades": {"facades"},
    "gta2cityscapes": {"gta5", "cityscapes"},
    "gta2cityscapes_images": {"gta5", "cityscapes"},
    "horse2zebra": {"horse2zebra"},
    "maps": {"maps"},
    "market2duke": {"dukemtmc", "market1501"},
    "market2msmt": {"market1501", "msmt17"},
    "mnist2usps": {"digits"},
    "people3d": {"people3d/campus", "people3d/mall"},
    "personx2market": {"personx", "market1501"},
    "streets3d2camvid": {"streets3d", "camvid"},
    "streets3d2camvid_images": {"streets3d", "camvid"},
    "summer2winter_yosemite": {"summer2winter_yosemite"},
    "svhn2mnist": {"digits"},
    "synthia2cityscapes": {"synthia", "cityscapes"},
    "synthia2cityscapes_13": {"synthia", "cityscapes"},
    "usps2mnist": {"digits"},
}
"""Of every pair of published sets, under ``DA_DATA_DIR``."""


@cache
def pair_of(name: str) -> DictConfig:
    """Variables of the environment are looked up later."""
    return composed(f"data={name}")


def roots(cfg: DictConfig) -> set[str]:
    """Every folder that is read, whether a download may fill it or not."""
    found = set()

    def walk(node: object, key: str = "") -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, name)
        elif key in ("root", "folder") and str(node).startswith(("/all/", "data/")):
            found.add(str(node))

    walk(OmegaConf.to_container(cfg.data, resolve=True))
    return found


def test_every_pair_is_here() -> None:
    pairs = {file.stem for file in (CONF_DIR / "data").glob("*.yaml")}
    assert pairs == {*OWN, *FOLDERS, *(name for name in pairs if name.startswith("toy_"))}


@pytest.mark.parametrize("pair", FOLDERS)
def test_published_sets_have_a_usual_place(pair: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DA_DATA_DIR", "/all")
    tops = {f"/all/{folder.partition('/')[0]}" for folder in FOLDERS[pair]}
    assert roots(pair_of(pair)) - tops == {f"/all/{folder}" for folder in FOLDERS[pair]} - tops
    monkeypatch.delenv("DA_DATA_DIR")
    assert {root.removeprefix("data/").partition("/")[0] for root in roots(pair_of(pair))} == {
        folder.partition("/")[0] for folder in FOLDERS[pair]
    }


@pytest.mark.parametrize("pair", OWN)
def test_folders_of_ones_own_must_be_named(pair: str) -> None:
    assert "???" in str(OmegaConf.to_container(pair_of(pair).data))


@pytest.mark.parametrize("pair", FOLDERS)
def test_the_folder_that_was_looked_for_is_named(pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DA_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    cfg = pair_of(pair)
    with pytest.raises(DataError) as caught:
        check_roots(cfg)
        build(cfg.data, "data")
    message = str(caught.value)
    for folder in FOLDERS[pair]:
        assert f"{tmp_path}/data/{folder.partition('/')[0]}" in message
    assert ("data.download=true" in message) == ("files" in cfg.data and isinstance(cfg.data.files, DictConfig))
    options = ["data.root"] if "root" in cfg.data else ["data.source.root", "data.target.root"]
    assert all(option in message for option in options)
    assert "\n" not in message


def test_parts_empty_folders_and_roots_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DA_DATA_DIR", str(tmp_path))
    (tmp_path / "people3d" / "campus").mkdir(parents=True)
    (tmp_path / "people3d" / "campus" / "file").touch()
    with pytest.raises(DataError, match=r"^data\.target\.root\b.*people3d/mall\b.*data\.root="):
        check_roots(composed("data=people3d"))
    (tmp_path / "people3d" / "mall").mkdir()
    with pytest.raises(DataError, match=r"people3d/mall, which is empty"):
        check_roots(composed("data=people3d"))
    own = composed("data=person_folders", "data.source.root=nowhere", f"data.target.root={tmp_path}")
    with pytest.raises(DataError, match=r"^data\.source\.root\b.*/nowhere\b") as caught:
        check_roots(own)
    assert "DA_DATA_DIR" not in str(caught.value)
    with pytest.raises(DataError, match=r"^data\.tests\.target\.query\.root\b.*nowhere"):
        check_roots(composed("data=person_folders_tested", f"data.source.root={tmp_path}",
                             f"data.target.root={tmp_path}", "data.tests.target.query.root=nowhere"))  # fmt: skip
    check_roots(composed("data=toy_streets"))


@pytest.mark.slow
def test_the_command_names_both_ways_out(tmp_path: Path) -> None:
    run = command(["method=munit", "data=edges2shoes", "logger=csv", "trainer=cpu"], tmp_path, DA_DATA_DIR="")
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert re.search(
        rf"error: {tmp_path}/data/edges2shoes does not exist: .*data\.root.*data\.download=true", run.stderr
    )


def test_a_pair_in_its_usual_place_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path / "data" / "digits")
    monkeypatch.delenv("DA_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    cfg = composed("data=mnist2usps", "data.batch_size=2")
    check_roots(cfg)
    assert len(build(cfg.data, "data").source) == 8


REAL = ("camvid_day2dusk", "day2dusk", "mnist2usps", "people3d", "streets3d2camvid", "streets3d2camvid_images")


@pytest.mark.parametrize("pair", [*REAL, "usps2mnist"])
def test_real_data_are_found(pair: str) -> None:
    top = Path(os.environ.get("DA_DATA_DIR", "nowhere"))
    if not all((top / folder).is_dir() for folder in FOLDERS[pair]):
        pytest.skip("DA_DATA_DIR names no folder with this pair")
    cfg = pair_of(pair)
    check_roots(cfg)
    build(cfg.data, "data")
