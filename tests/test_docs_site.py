"""The documentation builds without a warning, needs no network, and has all that it promises."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from da_lightning.config import CONF_DIR

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as ``make docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    (line,) = re.findall(r"python (-m sphinx .*) docs build/docs", (ROOT / "Makefile").read_text())
    done = subprocess.run(
        [sys.executable, *line.split(), "-d", str(folder / "doctrees"), "docs", str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def visible(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_nothing_is_fetched(site: Path) -> None:
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        assert not [tag for tag in tags if re.search(r"(?:src|href)=\"(?:https?:)?//", tag)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", style.read_text()), style


def test_each_method_has_a_page_with_all_its_options(site: Path) -> None:
    pages = {page: visible(page) for page in (site / "methods").glob("*.html")}
    for file in (CONF_DIR / "method").rglob("*.yaml"):
        name = file.relative_to(CONF_DIR).with_suffix("").as_posix()
        (text,) = [text for text in pages.values() if f"conf/{name}.yaml" in text]
        for key in re.findall(r"^(\w+):.* #", file.read_text(), re.MULTILINE):
            assert re.search(rf"\b{key}\b", text), f"{name}: {key}"
    cbst = (site / "methods" / "cbst.html").read_text()
    assert re.search(r"portion</span></code></p></td>\s*<td><p><code[^>]*><span[^>]*>0.2</span>", cbst)
    assert "paper 0.2 (official GTA5 run 0.15)" in visible(site / "methods" / "cbst.html")
    assert cbst.count("<math") > 5 and "toy_streets.png" in cbst


def test_all_recipes_data_sets_and_pairs_are_listed(site: Path) -> None:
    papers, data = visible(site / "papers.html"), visible(site / "own_data.html")
    for file in (CONF_DIR / "experiment").glob("*.yaml"):
        assert re.search(rf"\b{file.stem}\b", papers), file.stem
    published, own = (site / "papers.html").read_text().split('<section id="our-own-recipes">')
    assert "45.2 mIoU on ResNet-38" in published and "Not reproduced here" in published
    assert "munit_toy_shoes" in own and "munit_toy_shoes" not in published
    for file in [*(CONF_DIR / "data" / "dataset").glob("*.yaml"), *(CONF_DIR / "data").glob("*.yaml")]:
        assert re.search(rf"\b{file.stem}\b", data), file.stem


def test_docstrings_of_every_family_are_pages(site: Path) -> None:
    for package in ("training", "data", "segmentation", "translation", "reid", "toy"):
        text = (site / "api" / f"{package}.html").read_text()
        for file in (ROOT / "da_lightning" / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            assert f'id="module-{name}"' in text, name
    segmentation = visible(site / "api" / "segmentation.html")
    assert "Discriminators on the softmax maps make target predictions look like source predictions." in segmentation


def test_every_page_can_be_reached(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert f'href="{page.stem}.html"' in index or page.stem == "index"
    assert all((site / link).is_file() for link in re.findall(r'href="([\w/]+\.html)', index))


def test_errors_in_the_faq_are_those_that_the_code_tells() -> None:
    told = []
    for file in (ROOT / "da_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                told.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                told.append(node.value)
    ours, of_others = [], ("Could not", "mismatched", "trainer: ", "RuntimeError", "CUDA", "trainer.global_step")
    for sentence in re.findall(r"^### `(.+)`$", (DOCS / "faq.md").read_text(), re.MULTILINE):
        if not sentence.startswith(of_others):
            ours.append(sentence)
            options, words = names_in(sentence), set(re.findall(r"[A-Za-z]{4,}", sentence))
            likely = [text for text in told if all(name in text for name in options)]
            shared = max((len(words & set(re.findall(r"[A-Za-z]{4,}", text))) for text in likely), default=0)
            assert shared > len(words) / 2, f"no message has {options} and most words of: {sentence}"
    assert len(ours) > 15


def names_in(sentence: str) -> list[str]:
    """Options, values and files in a heading of the FAQ, which a message must have as they stand."""
    found = re.findall(r"[A-Za-z_][\w./]*=(?:\w[\w:/.]*\w)?|[A-Za-z_]\w*(?:\.\w+)+|[a-z]\w*_\w+", sentence)
    return [name.removesuffix("...") for name in found]


def test_names_in_a_heading_are_those_that_a_reader_looks_for() -> None:
    heading = "trainer.precision=16-mixed ... `...`, and method.accumulate=... of ...: set data.target.labelled=false."
    assert names_in(heading) == ["trainer.precision=16", "method.accumulate=", "data.target.labelled=false"]
