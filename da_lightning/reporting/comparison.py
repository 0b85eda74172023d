"""Several runs beside each other: grouped over seeds, against a baseline, along the keys of a sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from da_lightning.errors import UserError
from da_lightning.reporting.runs import Run, is_run, read_run, read_yaml
from da_lightning.reporting.scores import Score, Spread
from da_lightning.reporting.sweep_folder import differing_options, run_options
from da_lightning.yaml_files import leaves

_WITHOUT_EFFECT = {"seed", "resume", "logger", "progress", "enable_progress_bar", "num_workers", "pin_memory"}
_GENERATIONS = 5


@dataclass(frozen=True)
class Group:
    """Runs whose configuration differs in the seed only."""

    label: str
    runs: list[Run]
    options: Mapping[str, Any]

    def spread(self, score: Score) -> Spread | None:
        return Spread.of(run.scores.get(score) for run in self.runs)

    def difference(self, other: "Group", score: Score) -> tuple[Spread, bool] | None:
        """Against another group: of runs with the same seed where both have two such pairs, or else of the means.

        Returns:
            The difference and whether it is of pairs; ``None`` where one of the two has no such score.
        """
        own, its = (
            {run.seed: value for run in group.runs if (value := run.scores.get(score)) is not None}
            for group in (self, other)
        )
        pairs = [own[seed] - its[seed] for seed in own if seed in its]
        if len(pairs) > 1 and (paired := Spread.of(pairs)):
            return paired, True
        mine, theirs = self.spread(score), other.spread(score)
        return (Spread(mine.mean - theirs.mean, None), False) if mine and theirs else None


@dataclass(frozen=True)
class Sweep:
    """Jobs of a sweep and the keys that were swept; the seed is none of them, its runs are averaged."""

    folder: Path
    runs: list[Run]

    @cached_property
    def keys(self) -> list[str]:
        """What differs between the choices and the overrides of the jobs."""
        return [key for key in differing_options(map(run_options, self.runs)) if key != "seed"]

    @cached_property
    def was_searched(self) -> bool:
        """Whether the scores of earlier jobs chose the options of later ones."""
        hydra = (read_yaml(self.folder / "multirun.yaml") or {}).get("hydra", {})
        return "optuna" in str((hydra.get("sweeper") or {}).get("_target_"))

    def value(self, run: Run, key: str) -> str:
        """As the command had it; empty for a run that is no job of the sweep."""
        return run_options(run).get(key, "default") if run in self.runs else ""

    def short(self, key: str) -> str:
        """Without its groups, where that leaves no doubt."""
        name = key.rpartition(".")[2]
        return name if sum(other.rpartition(".")[2] == name for other in self.keys) == 1 else key

    def label(self, run: Run) -> str:
        """``portion=0.2, rounds=3``; empty for a run that is no job of the sweep."""
        return ", ".join(f"{self.short(key)}={value}" for key in self.keys if (value := self.value(run, key)))


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        groups: Its groups.
        baseline: The group that differences are to.
        oracle: The group that was trained on target labels.
        sweep: The swept keys, where the runs are the jobs of a sweep.
    """

    groups: Sequence[Group]
    baseline: Group | None = None
    oracle: Group | None = None
    sweep: Sweep | None = None

    @cached_property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def objective(self) -> Score | None:
        return next((run.objective for run in self.runs if run.objective), None)

    def role(self, group: Group) -> str:
        """``baseline`` or ``oracle``, or neither."""
        return "baseline" if group is self.baseline else "oracle" if group is self.oracle else ""


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order of their first runs, each with a label of its own."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(_identity(run), []).append(run)
    options = [dict(leaves(_seedless(runs[0].config))) for runs in members.values()]
    labels = _labels([runs[0] for runs in members.values()], options)
    return [
        Group(label, sorted(runs, key=lambda run: str(run.seed)), option)
        for label, runs, option in zip(labels, members.values(), options, strict=True)
    ]


def find_group(groups: Sequence[Group], wanted: str, what: str) -> Group:
    """The group with this label, or with a run of this folder, name, method or recipe.

    Raises:
        UserError: None, or more than one.
    """
    path = Path(wanted).resolve()
    tests = (
        lambda group: group.label == wanted,
        lambda group: any(run.folder.resolve() == path for run in group.runs),
        lambda group: any(run.folder.name == wanted for run in group.runs),
        lambda group: any(run.method == wanted for run in group.runs),
        lambda group: any(run.choices.get("experiment") == wanted for run in group.runs),
    )
    found = next(filter(None, ([group for group in groups if test(group)] for test in tests)), [])
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"{what}={wanted} names {len(found) or 'none'} of what is compared: give a run's folder or one of "
        f"{', '.join(repr(group.label) for group in groups)}."
    )


def _identity(run: Run) -> str:
    # Nothing is known of how a run without its configuration was made, so it stands alone.
    config = _seedless(run.config) if run.config else str(run.folder.resolve())
    return json.dumps([run.method, run.data, config], sort_keys=True, default=str)


def _seedless(value: Any, generation: int = 0) -> Any:
    """Without seeds and what has no effect on scores; a run's checkpoint stands for how that run was made."""
    if isinstance(value, Mapping):
        return {key: _seedless(item, generation) for key, item in value.items() if str(key) not in _WITHOUT_EFFECT}
    if isinstance(value, str) and value.endswith(".ckpt") and generation < _GENERATIONS:
        file = Path(value)
        if is_run(file.parent.parent) and (config := read_run(file.parent.parent).config):
            return {file.name: _seedless(config, generation + 1)}
    return value


def differing(options: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Options that are not the same everywhere, with all their values."""
    names = dict.fromkeys(name for option in options for name in option)
    columns = {name: [option.get(name, "") for option in options] for name in names}
    return {name: values for name, values in columns.items() if any(value != values[0] for value in values)}


def _labels(runs: Sequence[Run], options: Sequence[Mapping[str, Any]]) -> list[str]:
    """The method; where that does not tell two groups apart also the recipe, some options, or the folder's name."""
    several_data = len({run.data for run in runs}) > 1
    bases = [f"{run.method} on {run.data}" if several_data else run.method for run in runs]
    labels = []
    for base, run, own in zip(bases, runs, options, strict=True):
        keys = differing([option for option, other in zip(options, bases, strict=True) if other == base])
        recipes = [other.choices.get("experiment") for other, its in zip(runs, bases, strict=True) if its == base]
        if bases.count(base) == 1:
            labels.append(base)
        elif all(recipes) and len(set(recipes)) == len(recipes):
            labels.append(f"{base} ({run.choices['experiment']})")
        elif 0 < len(keys) <= 3:
            labels.append(", ".join([base, *(f"{key.rpartition('.')[2]}={own.get(key, '')}" for key in keys)]))
        else:
            labels.append(f"{base} ({run.folder.name})")
    return [
        label if labels.count(label) == 1 else f"{label} ({run.folder})"
        for label, run in zip(labels, runs, strict=True)
    ]
