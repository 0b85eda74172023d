"""What a run left on disk, read without torch, so that old runs and other people's have their page too."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from da_lightning.errors import UserError
from da_lightning.reporting.scores import Score, main_score, parse
from da_lightning.yaml_files import YamlError, checked_text

Point = tuple[float, float]

_AXES = ("epoch", "step", "round", "train/iteration")
_LABELS_CHOSE = re.compile(r"oracle|target[ _-]?labels?|target[ _-]test|\btarget/", re.IGNORECASE)
_LABELS_DID_NOT = re.compile(r"\b(without|no|not)\b|unsupervised", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """A run folder; nothing in it is required but ``metrics.json`` or ``metrics.csv``.

    Args:
        folder: Where it lies.
        summary: ``metrics.json``, empty for a run that did not finish.
        config: ``.hydra/config.yaml`` as composed, or else ``{"method": <hparams.yaml>}``, or nothing.
        overrides: What the command changed, ``key`` -> text of the value.
        choices: Names of the chosen groups (``method``, ``data``, ``experiment``).
    """

    folder: Path
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    overrides: Mapping[str, str]
    choices: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.summary.get("method") or self.choices.get("method") or self.folder.name)

    @property
    def data(self) -> str:
        return str(self.summary.get("data") or self.choices.get("data") or "unknown data")

    @property
    def seed(self) -> Any:
        return self.summary.get("seed", self.config.get("seed"))

    @property
    def is_finished(self) -> bool:
        return bool(self.summary)

    @property
    def selection(self) -> str:
        """How the tested weights were selected, in the run's own words."""
        return str(self.summary.get("selection", "not recorded"))

    @property
    def was_chosen_with_target_labels(self) -> bool:
        return bool(_LABELS_CHOSE.search(self.selection)) and not _LABELS_DID_NOT.search(self.selection)

    @cached_property
    def scores(self) -> dict[Score, float | None]:
        """Test scores by their parsed names; ``None`` where there was nothing to score (NaN)."""
        return {parse(name): value for name, value in self.summary.get("test", {}).items()}

    @property
    def objective(self) -> Score | None:
        """The score that says whether it adapted."""
        return main_score(self.scores, self.summary.get("objective"))

    @property
    def family(self) -> str:
        """``segmentation``, ``translation`` or ``reid``; empty if unknown."""
        parts = str(self.method_options.get("_target_", "")).split(".")
        if parts[0] == "da_lightning" and len(parts) > 2:
            return parts[1]
        return "segmentation" if "classes" in self.method_options else ""

    @property
    def method_options(self) -> Mapping[str, Any]:
        return self.config.get("method") or {}

    @property
    def colours(self) -> dict[str, tuple[int, int, int]]:
        """Class names and the colours that pictures show them in."""
        for part in ("method", "data"):
            classes = (self.config.get(part) or {}).get("classes")
            if isinstance(classes, Mapping):
                return {str(name): tuple(colour) for name, colour in classes.items() if len(colour) == 3}
        return {}

    @property
    def curves(self) -> dict[str, list[Point]]:
        """Logged points, metric -> (iteration, value) in order, also of the attempts before a run was resumed."""
        return self._points[0]

    @property
    def rounds(self) -> list[dict[str, float]]:
        """What was logged at each round of self-training, in order."""
        return self._points[1]

    @cached_property
    def _points(self) -> tuple[dict[str, list[Point]], list[dict[str, float]]]:
        curves: dict[str, list[Point]] = {}
        rounds: dict[float, dict[str, float]] = {}
        files = self.folder.glob("metrics*.csv")
        for file in sorted(files, key=lambda file: (file.name == "metrics.csv", natural(file))):
            logged: dict[str, list[Point]] = {}
            with file.open(newline="", encoding="utf-8", errors="replace") as lines:
                for row in csv.DictReader((line.replace("\0", "") for line in lines), restkey=""):
                    numbers = {name: n for name, text in row.items() if name and (n := _number(text)) is not None}
                    if "round" in numbers:
                        rounds[numbers["round"]] = numbers
                    for name, value in numbers.items() if "step" in numbers else ():
                        if name not in _AXES:
                            logged.setdefault(name, []).append((numbers["step"], value))
            for name, points in logged.items():
                # What an attempt logged after the checkpoint that the next one went on from did not count.
                curves[name] = [point for point in curves.get(name, []) if point[0] < points[0][0]] + points
        return curves, [rounds[number] for number in sorted(rounds)]

    @property
    def pictures(self) -> list[Path]:
        found = (self.folder / "pictures").rglob("[!.]*")  # hidden ones are half-written
        return sorted((file for file in found if file.suffix in (".png", ".jpg", ".gif")), key=natural)

    @property
    def stages(self) -> "list[Run]":
        """Runs that came before this one, in folders of their own."""
        return [read_run(folder) for folder in sorted(self.folder.iterdir()) if is_run(folder)]

    @property
    def pseudo_labels(self) -> list[int]:
        """How many label maps are kept, a number a round."""
        rounds = (folder for folder in (self.folder / "pseudo_labels").glob("round_*") if not folder.suffix)
        return [sum(1 for _ in folder.rglob("[!.]*.png")) for folder in rounds]

    def text(self, name: str) -> str:
        """A text file of the run, empty if it is not there."""
        file = self.folder / name
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""


def natural(path: str | Path) -> list[Any]:
    """A key under which ``round_2`` comes before ``round_10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def is_run(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() or (folder / "metrics.csv").is_file()


def is_sweep(folder: Path) -> bool:
    return (folder / "multirun.yaml").is_file()


def find_runs(folder: Path) -> list[Path]:
    """The run folders at or below ``folder``; stages of a run are not runs of their own.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give a run's folder, like outputs/<method>/<data>/<time>.")
    found = _runs_below(folder)
    if not found:
        raise UserError(
            f"{folder} holds neither metrics.json nor metrics.csv, and no folder below it does: give a run's folder."
        )
    return sorted(found, key=natural)


def _runs_below(folder: Path) -> list[Path]:
    if is_run(folder):
        return [folder]
    folders = (below for below in folder.iterdir() if below.is_dir() and not below.name.startswith("."))
    # A run without results is none, and its stages are not runs of their own.
    kept = (below for below in folders if is_run(below) or not (below / ".hydra").is_dir())
    return [run for below in kept for run in _runs_below(below)]


def read_run(folder: Path) -> Run:
    """Read a run's small files; its points and pictures wait until they are asked for.

    Raises:
        UserError: A file in it is broken.
    """
    hydra = folder / ".hydra"
    config = read_yaml(hydra / "config.yaml") or {}
    if not config and (options := read_yaml(folder / "hparams.yaml")):
        config = {"method": options}
    overrides = as_mapping(read_yaml(hydra / "overrides.yaml") or [])
    choices = (read_yaml(hydra / "hydra.yaml") or {}).get("hydra", {}).get("runtime", {}).get("choices", {})
    return Run(folder, read_summary(folder / "metrics.json"), config, overrides, choices)


def as_mapping(overrides: Iterable[object]) -> dict[str, str]:
    """``method.portion=0.2`` by its key."""
    pairs = (str(override).lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def read_summary(file: Path) -> dict[str, Any]:
    """What a run that has ended says of itself; nothing where it left no such file.

    Raises:
        UserError: The file is broken.
    """
    if not file.is_file():
        return {}
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not whole ({error}): run the command again, or leave this run out.") from None
    tests = summary.get("test", {}) if isinstance(summary, dict) else None
    if not isinstance(tests, dict) or not all(v is None or isinstance(v, int | float) for v in tests.values()):
        raise UserError(f'{file} is no summary of a run: expected {{"test": {{name: number}}, ...}} in it.')
    return summary


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values only; of what carries a Python tag, like a tuple, the plain value."""


def _untagged(loader: Any, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return node.value


_Loader.add_multi_constructor("", _untagged)


def read_yaml(file: Path) -> Any:
    """Interpolations stay as they are written; ``None`` if there is no such file, or nothing in it."""
    if not file.is_file() or not file.stat().st_size:
        return None
    try:
        return yaml.load(checked_text(file), Loader=_Loader)
    except (YamlError, yaml.YAMLError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({' '.join(str(error).split())}): mend it or leave its run out."
        ) from None


def _number(text: str | None) -> float | None:
    """A finite number, or ``None``: most cells are empty, and a killed run leaves half a line."""
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
