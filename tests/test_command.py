"""``da-lightning`` and its first word; :mod:`test_wheel` starts the script that pip installs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import command, run_folders, succeeded, tiny

import da_lightning.__main__ as front
from da_lightning.stopping import begin

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list:
    """What happens, in order; each command notes the options that it finds."""
    events: list = []

    def import_module(name: str) -> SimpleNamespace:
        events.append(f"import {name}")
        return SimpleNamespace(main=lambda: events.append(sys.argv[1:]))

    monkeypatch.setattr(front, "import_module", import_module)
    monkeypatch.setattr(front, "begin", lambda: events.append("signals are taken"))
    monkeypatch.setattr(front, "steady_output", lambda: None)
    return events


def enter(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["da-lightning", *arguments])
    front.main()


@pytest.mark.parametrize("first", [[], ["run"]])
@pytest.mark.parametrize(
    "options", [[], ["method=cbst", "-m"], ["-m", "seed=1,2"], ["--config-dir", "mine"], ["~logger"], ["+a=1"]]
)
def test_run_is_what_it_does_without_a_first_word(
    first: list[str], options: list[str], entered: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch, *first, *options)
    assert entered == ["signals are taken", "import da_lightning.run", options]


@pytest.mark.parametrize("name", ["predict", "export", "report"])
def test_other_commands_get_their_options(name: str, entered: list, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, name, "a=1", "run")
    assert entered == [f"import da_lightning.{name}", ["a=1", "run"]]


@pytest.mark.parametrize("word", ["predcit", "", "outputs/run", "\x1b[2J"])
def test_another_first_word_is_answered_with_those_that_there_are(
    word: str, entered: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as caught:
        enter(monkeypatch, word, "checkpoint=a")
    assert caught.value.code == (
        f"error: {word!r} is no command of da-lightning: write run, predict, export or report first, or options of a "
        "run like method=cbst."
    )
    assert not entered


def test_each_command_is_a_module_with_a_main() -> None:
    for name in front.COMMANDS:
        assert callable(__import__(f"da_lightning.{name}", fromlist=["main"]).main)
    assert front.begin is begin


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], ["run", "predict", "export", "report", "da-lightning run --help"]),
        (["predict", "--help"], ["style_image="]),
        (["export", "--help"], ["argmax=true"]),
        (["report", "-h"], ["baseline="]),
    ],
)
def test_help(arguments: list[str], said: list[str], tmp_path: Path) -> None:
    program = [sys.executable, "-X", "importtime", "-m", "da_lightning", *arguments]
    done = subprocess.run(program, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and all(word in done.stdout for word in said)
    assert not any(word in done.stderr for word in ("torch", "lightning.pytorch", "hydra"))


@pytest.mark.slow
@pytest.mark.parametrize("words", [["run"], []])
def test_all_processes_of_a_run_do_the_same(words: list[str], tmp_path: Path) -> None:
    """Lightning starts the second one by the command line of the first, here that of the installed script."""
    place, function = re.findall(r'^da-lightning = "(.+):(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]
    script = tmp_path / "da-lightning"
    script.write_text(
        f"import sys\nfrom {place} import {function}\nif __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    sums = "+callbacks.sums={_target_: tiny_runs.WriteChecksum}"
    name = "segmentation_source_only"
    options = [f"method={name}", *tiny(name), "trainer.devices=2", sums]
    succeeded(command([*words, *options], tmp_path / "runs", [str(script)]))
    (folder,) = run_folders(tmp_path / "runs")
    assert json.loads((folder / "metrics.json").read_text())["devices"] == 2
    assert len({json.loads((folder / f"rank_{rank}.json").read_text())["parameters"] for rank in range(2)}) == 1
