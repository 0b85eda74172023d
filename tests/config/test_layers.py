"""Imports go down only: run, then families, then what they share, then libraries; Hydra stays at the door."""

import ast
from pathlib import Path

import pytest

import da_lightning

PACKAGE = Path(da_lightning.__file__).parent
FILES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))
FAMILIES = ("segmentation", "translation", "reid")
SHARED = ("training", "data", "toy")


def imported(file: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", FILES)
def test_imports(file: str) -> None:
    names = imported(file)
    own = file.split("/")[0]
    parts = {name.split(".")[1] for name in names if name.startswith("da_lightning.")}
    if own != "config" and file not in ("run.py", "private/hydra.py"):
        assert not [name for name in names if name.split(".")[0] == "hydra"]
    if own in (*FAMILIES, *SHARED):
        assert not [name for name in names if name.split(".")[0] == "omegaconf"]
        assert not parts & {"run", "stages", "session", "config", "trainer"}
        assert "da_lightning.private.hydra" not in names
        allowed = {own, "translation"} if own == "reid" else {own}  # SPGAN is a CycleGAN, camera style a StarGAN
        assert not parts & (set(FAMILIES) - allowed)
    if own in SHARED:
        assert not parts & set(FAMILIES)
