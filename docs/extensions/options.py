"""Pages out of ``conf/`` and docstrings, so that nothing is said twice.

``{options} method/cbst`` lists what a file says of itself and of each option, ``{recipes} published`` and
``{recipes} own`` the files of ``conf/experiment``, ``{group} data`` those of a group, ``{modules} da_lightning.reid``
the API of each module.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


def header(text: str) -> str:
    """The comment that a yaml file begins with, as one paragraph."""
    lines = re.match(r"(?:# @package \S+\n)?((?:#.*\n)*)", text)
    assert lines
    return " ".join(line.lstrip("# ") for line in lines[1].splitlines())


def options(text: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and comment of each option of a yaml file; nested keys have dots."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str, str]]:
        for key, value in node.value:
            if key.value == "defaults" or key.value.startswith("_"):
                continue
            line = lines[key.start_mark.line]
            is_block = isinstance(value, yaml.MappingNode) and not value.flow_style
            end = key.end_mark.column + 1 if is_block else value.end_mark.column
            written = "" if is_block else line[value.start_mark.column : end].strip()
            comment = line[end:].partition("#")[2].strip()
            if written or comment:
                yield f"{prefix}{key.value}", written, comment
            if is_block:
                yield from walk(value, f"{prefix}{key.value}.")

    node = yaml.compose(text)
    if isinstance(node, yaml.MappingNode):
        yield from walk(node, "")


def inherited(text: str) -> Iterator[str]:
    """Links to where the options are that a method's file takes from others."""
    content: dict[str, Any] = yaml.safe_load(text) or {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            yield f"those of [{entry}]({entry}.md)"
        elif isinstance(entry, dict) and (family := entry.get("base@_here_")):
            yield f"those of [every {family} method](shared.md)"


def recipe(text: str) -> tuple[str, str | None, str]:
    """What a recipe is, the number that was published (``None``: none was), and what else its header says."""
    parts = re.match(r"(.*?) (?:Published: (.*) (?=Not reproduced here))?((?:Not reproduced|Our own).*)", header(text))
    assert parts, f"a recipe's header has Published: ... Not reproduced here, or Our own ...: {header(text)}"
    return parts[1], parts[2], parts[3]


def escaped(text: str) -> str:
    """``text`` as Markdown that shows it as it is, in a table's cell, too."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#])", r"\\\1", text)


class MarkdownDirective(SphinxDirective):
    """A directive that writes Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(self.lines(self.arguments[0])), allow_section_headings=True)

    def lines(self, argument: str) -> Iterator[str]:
        raise NotImplementedError

    def read(self, file: Path) -> str:
        self.env.note_dependency(str(file))
        return file.read_text(encoding="utf-8")


class Options(MarkdownDirective):
    """What the file of an option group says, as a table."""

    def lines(self, argument: str) -> Iterator[str]:
        text = self.read(CONF / f"{argument}.yaml")
        yield from (f"`conf/{argument}.yaml`: {escaped(header(text))}", "")
        if found := list(options(text)):
            yield from ("| option | default | |", "| --- | --- | --- |")
        for key, value, comment in found:
            yield f"| `{key}` | {f'`{value}`' if value else ''} | {escaped(comment)} |"
        if argument.startswith("method/") and (others := list(inherited(text))):
            yield from ("", f"Besides these: {', '.join(others)}.")


class Recipes(MarkdownDirective):
    """The files of ``conf/experiment``, with a published number or of our own."""

    def lines(self, argument: str) -> Iterator[str]:
        is_published = {"published": True, "own": False}[argument]
        heads = ["`experiment=`", *(["published"] if is_published else []), "remarks"]
        yield from (f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}")
        for file in sorted((CONF / "experiment").glob("*.yaml")):
            what, published, rest = recipe(self.read(file))
            if (published is not None) == is_published:
                cells = [f"`{file.stem}` {escaped(what)}", *([escaped(published)] if published else []), escaped(rest)]
                yield f"| {' | '.join(cells)} |"


class Group(MarkdownDirective):
    """The files of a group by what they say of themselves."""

    def lines(self, argument: str) -> Iterator[str]:
        yield from (f"| `{argument}=` | |", "| --- | --- |")
        for file in sorted((CONF / argument).glob("*.yaml")):
            yield f"| `{file.stem}` | {escaped(header(self.read(file)))} |"


class Modules(MarkdownDirective):
    """The API of each module of a package."""

    def lines(self, argument: str) -> Iterator[str]:
        package = ROOT.joinpath(*argument.split("."))
        for file in sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]:
            self.env.note_dependency(str(file))
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield from (f"## `{name}`", "", "```{eval-rst}", f".. automodule:: {name}", "```", "")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("options", Options)
    app.add_directive("recipes", Recipes)
    app.add_directive("group", Group)
    app.add_directive("modules", Modules)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
