"""``from da_lightning import ...``"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import da_lightning
from da_lightning import CBST
from da_lightning.config import CONF_DIR

TARGETS = sorted(
    {
        line.split()[1]
        for file in (CONF_DIR / "method").glob("*.yaml")
        for line in file.read_text().splitlines()
        if line.startswith("_target_: ")
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_each_method_can_be_imported_from_the_package(target: str) -> None:
    module, _, name = target.rpartition(".")
    found = getattr(da_lightning, name)
    assert (found.__module__, found.__name__) == (module, name)
    assert name in da_lightning.__all__ and name in dir(da_lightning)


def test_methods_are_found() -> None:
    assert len(TARGETS) > 10
    assert CBST.__module__ == "da_lightning.segmentation.cbst"


@pytest.mark.parametrize("name", ["PersonDataModule", "SegmentationDataModule", "UnpairedImages"])
def test_data_modules_can_be_imported_from_the_package(name: str) -> None:
    assert getattr(da_lightning, name).__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(da_lightning.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    parts = {name: place.partition(":") for name, place in da_lightning._MODULES.items()}
    assert seen == {name: (f"da_lightning.{m}", other or name) for name, (m, _, other) in parts.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'da_lightning' has no attribute 'MUNITT'"):
        _ = da_lightning.MUNITT
    with pytest.raises(ImportError, match="MUNITT"):
        exec("from da_lightning import MUNITT")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, da_lightning; print(*{name.partition('.')[0] for name in sys.modules})"
    path = {"PYTHONPATH": str(Path(da_lightning.__file__).parents[1])}
    loaded = subprocess.run([sys.executable, "-c", code], env=path, check=True, capture_output=True, text=True).stdout
    assert "da_lightning" in loaded.split()
    assert not {"torch", "lightning", "hydra", "numpy"} & set(loaded.split())
