"""Every file under ``conf/``: found, composed, and held against what it configures."""

import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from tiny_runs import composed

from da_lightning.arguments import checked_arguments
from da_lightning.config import CONF_DIR
from da_lightning.config.build import check_targets
from da_lightning.data.facts import DataFacts
from da_lightning.errors import UserError


def options_of(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF_DIR / group).glob("*.yaml"))


EVERY = [
    (group, name)
    for group in ("method", "callbacks", "selection", "data", "trainer", "logger", "debug", "experiment")
    for name in options_of(group)
]


def target_of(node: DictConfig | dict) -> type:
    package, _, name = node["_target_"].rpartition(".")
    assert package.startswith(("da_lightning.", "lightning.pytorch"))
    return getattr(importlib.import_module(package), name)


def test_conf_is_found_wherever_the_package_lies(tmp_path: Path) -> None:
    from da_lightning.config import paths

    assert (CONF_DIR / "config.yaml").is_file()
    source = Path(paths.__file__).read_text()
    for conf in ("da_lightning/conf", "conf"):  # in a wheel, and in a checkout
        root = tmp_path / conf.replace("/", "_")
        (root / "da_lightning" / "config").mkdir(parents=True)
        (root / conf).mkdir(parents=True, exist_ok=True)
        (root / conf / "config.yaml").touch()
        copy = root / "da_lightning" / "config" / "paths.py"
        copy.write_text(source)
        spec = importlib.util.spec_from_file_location("copied_paths", copy)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert root / conf == module.CONF_DIR


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), EVERY)
def test_every_option_composes(group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")
    assert {"method", "data", "trainer", "callbacks", "seed"} <= set(cfg)
    assert not {"experiment", "debug"} & set(cfg), "without # @package _global_ a file lands beside what it changes"
    # Each target has the role of its place; folders and cameras are the user's to give.
    known = OmegaConf.create(json.loads(json.dumps(OmegaConf.to_container(cfg)).replace('"???"', '"given"')))
    if group == "data":
        known.method = None  # of another family than some pairs
        if "class_map" in known.data:
            return  # there are no classes without the user's file
    check_targets(known)


@pytest.mark.parametrize("name", options_of("experiment"))
def test_experiments_give_their_method_what_it_takes(name: str) -> None:
    method = OmegaConf.to_container(composed(f"experiment={name}").method, resolve=True)
    kind = target_of(method)
    given = {key: value for key, value in method.items() if key != "_target_"}
    facts = DataFacts(num_persons=3, image_size=(64, 32), target_size=12)
    checked = checked_arguments(kind, given | facts.options(kind, given), "method")
    for node in (checked.get("network", {}), checked.get("backbone", {})):
        if "pretrained" in node:
            node["pretrained"] = None  # nothing to download here
    kind(**checked)


@pytest.mark.parametrize("name", options_of("experiment"))
def test_recipes_say_what_was_published_and_where_their_values_come_from(name: str) -> None:
    header, *lines = (CONF_DIR / f"experiment/{name}.yaml").read_text().split("defaults:")
    if "no published number" in header:
        return
    assert "Published: " in header and "Not reproduced here" in " ".join(header.split("\n# "))
    values = [line for line in lines[0].splitlines() if ": " in line and "override /" not in line]
    assert all("# " in line for line in values), "where does it come from?"


@pytest.mark.parametrize("name", options_of("network"))
def test_networks_build(name: str) -> None:
    from da_lightning.networks.base import build_part
    from da_lightning.segmentation.networks import SegmentationNetwork

    options = OmegaConf.to_container(composed(f"network@method.network={name}").method.network, resolve=True)
    given = {"pretrained": None} if "pretrained" in options else {}
    given |= {"backbone": "tf_efficientnet_lite0"} if options.get("backbone") == "???" else {}
    network = build_part({**options, **given}, SegmentationNetwork, "method.network", num_classes=5)
    assert len(network.strides) == len(network.channels)
    assert set(network.parameter_groups()) == {"backbone", "heads"}


@pytest.mark.parametrize("name", options_of("data/dataset"))
def test_data_sets_are_given_every_option_and_no_other(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "data" / "dataset" / f"{name}.yaml"))
    given, taken = set(node) - {"_target_", "defaults"}, inspect.signature(target_of(node)).parameters
    assert given <= set(taken)
    assert all(p.default is not p.empty or n in given for n, p in taken.items())


@pytest.mark.parametrize("name", options_of("data"))
def test_pairs_give_the_data_module_what_it_takes(name: str) -> None:
    node = OmegaConf.to_container(composed(f"data={name}").data)  # unresolved: folders are not known here
    kind = target_of(node)
    options = {key: value for key, value in node.items() if key != "_target_"}
    with pytest.raises(UserError, match=r"^data\.(?!.* is not an option)"):  # nodes are no data sets yet
        checked_arguments(kind, options, "data")
    plain = {key: value for key, value in options.items() if not re.search(r"_target_|\?\?\?|\${", str(value))}
    with pytest.raises(UserError, match=r"^data\..* must be set"):
        checked_arguments(kind, plain, "data")
    assert not node["target"].get("labelled")
    assert all(test.get("labelled", True) for test in node.get("tests", {}).values())


def test_every_file_of_a_group_says_what_it_is() -> None:
    for file in CONF_DIR.rglob("*.yaml"):
        assert file.read_text().startswith("#"), file


def test_trainer_options_are_lightnings() -> None:
    node = OmegaConf.to_container(composed().trainer)
    target = target_of(node)
    checked_arguments(target, {key: value for key, value in node.items() if key != "_target_"}, "trainer")
