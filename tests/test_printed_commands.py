"""Every command that the README and the pages of ``docs/`` print, held against what it calls: nothing is run.

Commands stand in indented or fenced blocks, or between backticks. What cannot be checked so, as it needs another
machine, has ``<!-- needs: ... -->`` above its block.
"""

import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from da_lightning import report
from da_lightning.__main__ import COMMANDS as SUBCOMMANDS
from da_lightning.arguments import checked_arguments
from da_lightning.config import CONF_DIR
from da_lightning.config.sweeps import prefer_own_presets
from da_lightning.errors import UserError
from da_lightning.reid.predict import Rank
from da_lightning.run import _missing_keys
from da_lightning.segmentation.predict import Segment
from da_lightning.translation.predict import Translate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ +)*(?:\S*/)?(?:python3?|make|pip|da-lightning|wandb|torchrun|jupyter) ")
SYSTEM = (["python", "-m", "venv"], ["wandb", "sync"], ["wandb", "login"], ["jupyter", "lab"])
"""How commands begin that belong to others, and need no more than what is installed."""


@dataclass(frozen=True)
class Printed:
    """Where it stands, and what it says."""

    place: str
    words: tuple[str, ...]
    is_whole: bool = True


def printed(page: Path) -> Iterator[Printed]:
    """The commands of a page; between backticks also overrides alone, if they choose a method, data or a recipe."""
    lines = page.read_text(encoding="utf-8").splitlines()
    name, fence, is_excused, number, prose = page.relative_to(ROOT), "", False, 0, []
    while number < len(lines):
        line, place = lines[number], f"{name}:{number + 1}"
        number += 1
        if line.lstrip().startswith("```"):
            fence = "" if fence else line.strip()
            # A block with the caption "command" is executed by test_docs_recipes.py.
            is_excused = is_excused or (bool(fence) and lines[number : number + 1] == [":caption: command"])
        elif fence or line.startswith("    "):
            while line.endswith("\\"):
                line, number = line[:-1] + lines[number], number + 1
            if PROGRAM.match(line.strip() + " ") and not is_excused:
                yield Printed(place, words(line))
        else:
            prose.append(line)
            if line:
                is_excused = bool(re.fullmatch(r"<!-- needs: \S.* -->", line))
    for span in (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(prose))):
        if re.match(r"make \w+$", span) or (PROGRAM.match(span) and re.search("da.lightning", span)):
            found = words(span)
            if not {"placeholder", "..."} & set(found):  # which stand for any options
                yield Printed(f"{name}: {span}", found)
        elif re.match(r"\S+=", span) and re.search(r"\b(method|data|experiment)=[\w,]+( |$)", span):
            found = words(span)
            if all("=" in word for word in found):
                yield Printed(f"{name}: {span}", ("python", "-m", "da_lightning.run", *found), is_whole=False)


def words(line: str) -> tuple[str, ...]:
    """What a shell would make of a line, with something in place of ``<this>`` and of ``key=...``."""
    line = re.sub(r"=\.\.\.(?= |$)", "=placeholder", re.sub(r"<[^<>]*>", "placeholder", line.strip()))
    found = shlex.split(re.sub(r"^(\w+=\S* +)+(?=\S*(python|da-))", "", line), comments=True)
    return (found[0].rpartition("/")[2] if "=" not in found[0] else found[0], *found[1:])


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in printed(page)))


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    prefer_own_presets()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_what_is_printed_would_be_taken(command: Printed) -> None:
    check(command)


def check(command: Printed) -> None:
    program, *rest = command.words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip" or rest[:2] == ["-m", "pip"]:
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        named = [name for word in rest for name in re.findall(r"\[(.*)\]", word)]
        assert {extra for name in named for extra in name.split(",")} <= set(extras)
    elif program == "da-lightning":
        name, *own = rest if rest and rest[0] in SUBCOMMANDS else ["run", *rest]
        check(Printed(command.place, ("python", "-m", f"da_lightning.{name}", *own), command.is_whole))
    elif program.startswith("python") and rest[:1] == ["-m"] and rest[1].startswith("da_lightning"):
        name = rest[1].rpartition(".")[2]
        if name == "run":
            check_run(rest[2:], command.is_whole)
        elif rest[2:] == ["--help"]:
            assert name in SUBCOMMANDS
        elif name == "report":
            assert report._parsed(rest[2:])["folders"]
        else:
            module = importlib.import_module(rest[1])
            if rest[2:]:  # else it prints its help
                check_options(getattr(module, name), name, rest[2:])
    else:
        assert any(list(command.words[: len(start)]) == start for start in SYSTEM), "write <!-- needs: ... --> above it"


def check_run(arguments: list[str], is_whole: bool) -> None:
    """Composes, each choice of a swept group once, and leaves nothing to be set."""
    options = get_args_parser().parse_args(arguments)
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    is_sweep = any(override.is_sweep_override() for override in overrides)
    assert options.multirun or not is_sweep or not is_whole
    choices = []
    for override in overrides:
        values = [override.input_line or ""]
        if override.is_sweep_override():
            swept = list(override.sweep_string_iterator()) if override.is_choice_sweep() else ["1"]
            values = [f"{override.get_key_element()}={value}" for value in swept]
        choices.append(values if (CONF_DIR / override.key_or_group.partition("@")[0]).is_dir() else values[:1])
    for chosen in zip_longest(*choices) if choices else [()]:
        missing = to_be_set(*(value or choices[place][0] for place, value in enumerate(chosen)))
        assert not missing or not is_whole or options.help or options.cfg


@cache
def to_be_set(*overrides: str) -> list[str]:
    """What a composed configuration still lacks."""
    return _missing_keys(compose("config", overrides=list(overrides)))


def check_options(function: Callable, name: str, arguments: list[str]) -> None:
    """``name=value`` words: the command takes its own, and of predictions one family all others."""
    options = dict(argument.split("=", 1) for argument in arguments)
    checked_arguments(function, options, name)
    if name == "predict":
        rest = {key: value for key, value in options.items() if key not in inspect.signature(function).parameters}
        for family in (Translate, Segment, Rank):
            with suppress(UserError):
                checked_arguments(family, rest, name)
                return
        raise AssertionError(f"no family takes {', '.join(rest)}")


def test_commands_are_found() -> None:
    whole = {" ".join(command.words) for command in COMMANDS if command.is_whole}
    assert {"make demo", "make docs", "python -m da_lightning.run --cfg job"} <= whole
    assert len({command.place.partition(":")[0] for command in COMMANDS}) > 15
    text = "<!-- needs: a cluster -->\n\n    torchrun x\n\nand\n\n    make it  # so\n\nby `method=a\nseed=1`, `seed=1`"
    page = ROOT / "docs" / "text.md"
    original = Path.read_text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda self, **k: text if self == page else original(self, **k))
        found = [(command.words, command.is_whole) for command in printed(page)]
    assert found == [(("make", "it"), True), (("python", "-m", "da_lightning.run", "method=a", "seed=1"), False)]


@pytest.mark.parametrize(
    "line",
    [
        "make nonsense",
        "pip install 'da-lightning[nonsense]'",
        "torchrun -m da_lightning.run",
        "python -m da_lightning.nonsense",
        "python -m da_lightning.run method=nonsense",
        "python -m da_lightning.run method.nonsense=1",
        "python -m da_lightning.run --nonsense",
        "python -m da_lightning.run seed=1,2",
        "python -m da_lightning.run -m method=cbst,nonsense",
        "python -m da_lightning.run data=folders data.source.root=a",
        "python -m da_lightning.run -m hydra/launcher=nonsense",
        "python -m da_lightning.predict checkpoint=a input=b output=c nonsense=1",
        "python -m da_lightning.predict checkpoint=a input=b output=c styles=many",
        "python -m da_lightning.predict input=b output=c",
        "python -m da_lightning.report a nonsense=b",
        "da-lightning nonsense",
        "da-lightning run method=nonsense",
        "da-lightning predict method=cbst",
        "da-lightning report a nonsense=b",
    ],
)
def test_what_would_not_be_taken_is_told(line: str) -> None:
    with pytest.raises((AssertionError, UserError, HydraException, ImportError, SystemExit)):
        check(Printed("here", words(line)))
