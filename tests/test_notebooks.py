"""Notebooks: in step with their scripts, committed without outputs, and they run to the end."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

import da_lightning

pytestmark = pytest.mark.slow

ROOT = Path(da_lightning.__file__).parents[1]
PICTURES = {"segmentation": 8, "translation": 5, "person_reid": 5}
"""By notebook, how many it shows."""


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_is_what_its_script_says_and_has_no_outputs(name: str) -> None:
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (script, notebook)]
    assert cells[0] == cells[1], f"jupytext --update --to ipynb notebooks/{name}.py"
    assert notebook.metadata.kernelspec == script.metadata.kernelspec
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), f"clear the outputs of {name}.ipynb"


def test_no_notebook_is_left_out() -> None:
    assert {file.stem for file in (ROOT / "notebooks").iterdir() if file.suffix in (".py", ".ipynb")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_runs_to_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows pictures inline
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
    assert [path.name for path in tmp_path.iterdir() if path.name != "ipython"] == ["outputs"]
