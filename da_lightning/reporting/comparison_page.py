"""What the page of several runs says, or of a sweep."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from da_lightning.reporting.charts import Chart
from da_lightning.reporting.comparison import Group, Sweep, differing
from da_lightning.reporting.pictures import Embedded, Figure, by_kind, drawn_pictures
from da_lightning.reporting.run_page import gap_closed
from da_lightning.reporting.runs import Run
from da_lightning.reporting.scores import Score
from da_lightning.reporting.sweep_charts import as_number, heat_map, overall, sweep_chart, titled
from da_lightning.reporting.sweep_folder import never_began, without_results
from da_lightning.reporting.tables import Cell, Strip, Table, duration, memory, score_cell, tinted

_PICTURED_GROUPS = 24


@dataclass(frozen=True)
class SameImages:
    """Pictures of the same images, one of each group."""

    title: str
    figures: list[Figure]


@dataclass(frozen=True)
class ComparisonPage:
    """Everything the template needs of a comparison."""

    data: str
    title: str
    subtitle: str
    warnings: list[str]
    note: str
    chart: Chart | None
    heat_map: Table | None
    strips_title: str
    strips: list[Strip]
    strips_range: tuple[str, str]
    groups: Table
    classes: Table | None
    options: Table | None
    runs: Table
    pictures: list[SameImages]
    colours: Mapping[str, tuple[int, int, int]]


def comparison_page(
    groups: Sequence[Group],
    embedded: Mapping[Path, Embedded],
    beside: Path,
    baseline: Group | None = None,
    oracle: Group | None = None,
    sweep: Sweep | None = None,
) -> ComparisonPage:
    """Put together the page of several runs.

    Args:
        groups: What is compared.
        embedded: Pictures of :func:`pictures_of`, by their files.
        beside: The folder of the page, for links to the pages of runs.
        baseline: The group that differences are to.
        oracle: The group that was trained on target labels.
        sweep: The swept keys, where the runs are the jobs of a sweep.
    """
    runs = [run for group in groups for run in group.runs]
    objective = next((run.objective for run in runs if run.objective), None)
    strips, strips_range = _strips(groups, objective, baseline, oracle)
    keys = ", ".join(sweep.short(key) for key in sweep.keys) if sweep else ""
    return ComparisonPage(
        ", ".join(dict.fromkeys(run.data for run in runs if run.is_finished)),
        f"Sweep of {keys}" if keys else "Sweep over seeds" if sweep else "Comparison",
        _subtitle(runs, groups),
        _warnings(runs, sweep, objective),
        _note(groups, objective, baseline),
        sweep_chart(sweep, objective) if sweep else None,
        heat_map(sweep, objective) if sweep else None,
        titled(objective),
        strips,
        strips_range,
        _groups_table(groups, runs, objective, baseline, oracle, sweep),
        _classes_table(groups, objective),
        _options_table(groups),
        _runs_table(groups, runs, objective, beside),
        _pictures(groups, embedded),
        next((run.colours for run in runs if run.colours), {}),
    )


def pictures_of(groups: Sequence[Group]) -> list[Path]:
    """The test pictures of the first run of each group."""
    first = [group.runs[0] for group in groups[:_PICTURED_GROUPS]]
    return [file for run in first for file in drawn_pictures(run) if file.name.startswith(("test_", "ranking"))]


def _subtitle(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    count = f"{len(runs)} runs" if len(runs) == len(groups) else f"{len(runs)} runs of {len(groups)} configurations"
    return f"{count}: {methods}"


def _warnings(runs: Sequence[Run], sweep: Sweep | None, objective: Score | None) -> list[str]:
    warnings = []
    if sweep and sweep.was_searched and objective and objective.place == "target":
        warnings.append(
            f"A search chose the options by {objective.title}, with target labels: the best of these figures is an "
            "upper bound, not a result of unsupervised adaptation."
        )
    chosen = [run for run in runs if run.was_chosen_with_target_labels]
    if chosen:
        warnings.append(
            f"Target labels chose the tested weights of {', '.join(run.folder.name for run in chosen)} "
            f"(“{chosen[0].selection}”). Without labels that choice cannot be made: read these figures as an upper "
            "bound, not as results of unsupervised adaptation."
        )
    data = list(dict.fromkeys(run.data for run in runs if run.is_finished))
    if len(data) > 1:
        warnings.append(f"The runs are on different data ({', '.join(data)}): their scores do not compare.")
    unfinished = [run.folder.name for run in runs if not run.is_finished]
    if sweep:
        unfinished += [job.name for job in without_results(sweep.folder) if job.name not in unfinished]
    if unfinished:
        what = "Jobs" if sweep else "Runs"
        warnings.append(f"{what} that left no results, failed or still running: {', '.join(unfinished)}.")
    if sweep and (never := never_began(sweep.folder)):
        warnings.append(f"Jobs that never began: {', '.join(never)}.")
    return warnings


def _note(groups: Sequence[Group], objective: Score | None, baseline: Group | None) -> str:
    sentences = []
    if any(len(group.runs) > 1 for group in groups):
        sentences.append("Runs whose configuration differs in the seed only are one row: mean ± standard deviation.")
    if baseline and objective:
        paired = [group for group in groups if (found := group.difference(baseline, objective)) and found[1]]
        sentences.append(f"Smaller, in colour: the difference to {baseline.label}")
        sentences[-1] += ", between runs of the same seed where there are two and more." if paired else "."
    return " ".join(sentences)


def _groups_table(
    groups: Sequence[Group],
    runs: Sequence[Run],
    objective: Score | None,
    baseline: Group | None,
    oracle: Group | None,
    sweep: Sweep | None,
) -> Table:
    scores = overall(runs, objective)
    keys = [sweep.short(key) for key in sweep.keys] if sweep else []
    has_gap = bool(baseline and oracle and objective)
    columns = [*(keys or ["configuration"]), "runs", *(titled(score) for score in scores)]
    columns += ["gap closed"] if has_gap else []
    columns += ["time", "peak memory"]
    bests = {score: None if score.role else _best(groups, score, oracle) for score in scores}
    rows = []
    for group in groups:
        role = "baseline" if group is baseline else "oracle" if group is oracle else ""
        row = [_key_cell(sweep.value(group.runs[0], key)) for key in sweep.keys] if sweep else []
        if not row or not row[0].text:
            row[:1] = [Cell(group.label)]
        row[0] = replace(row[0], aside=role)
        row.append(Cell(str(len(group.runs)), len(group.runs), aside=_seeds(group)))
        for score in scores:
            aside, style = _change(group, baseline, score)
            row.append(
                score_cell(score, group.spread(score), aside, f"{style} best" if group is bests[score] else style)
            )
        if has_gap and baseline and oracle and objective:
            means = [spread.mean if (spread := g.spread(objective)) else None for g in (baseline, group, oracle)]
            row.append(Cell("" if role else gap_closed(*means)))
        seconds = group.seconds.mean if group.seconds else None
        row += [Cell(duration(seconds), seconds), Cell(memory(group.peak_memory_mb), group.peak_memory_mb)]
        rows.append(row)
    return Table("Results", columns, rows, is_sortable=True)


def _key_cell(value: str) -> Cell:
    number = as_number(value)
    return Cell(value, number, style="" if number is not None else "text")


def _seeds(group: Group) -> str:
    seeds = [str(run.seed) for run in group.runs if run.seed is not None]
    return f"seeds {', '.join(seeds)}" if len(seeds) > 1 else ""


def _best(groups: Sequence[Group], score: Score, oracle: Group | None) -> Group | None:
    scored = [(spread.mean * score.sign, group) for group in groups if (spread := group.spread(score))]
    scored = [item for item in scored if item[1] is not oracle]
    return max(scored, key=lambda item: item[0])[1] if len(scored) > 1 else None


def _change(group: Group, baseline: Group | None, score: Score) -> tuple[str, str]:
    """The difference to the baseline as it stands beside a score, and its style."""
    if baseline is None or group is baseline or (found := group.difference(baseline, score)) is None:
        return "", ""
    spread = found[0]
    text = score.change(spread.mean)
    style = "" if text[0] not in "+−" else "good" if spread.mean * score.sign > 0 else "bad"
    return text + (f" ± {score.shown(spread.deviation)}" if spread.deviation is not None else ""), style


def _strips(
    groups: Sequence[Group], objective: Score | None, baseline: Group | None, oracle: Group | None
) -> tuple[list[Strip], tuple[str, str]]:
    """Dots of all runs on one scale."""
    if objective is None:
        return [], ("", "")
    values = {id(g): [v for run in g.runs if (v := run.scores.get(objective)) is not None] for g in groups}
    known = [value for found in values.values() for value in found]
    if not known:
        return [], ("", "")
    low, high = min(known), max(known)
    margin = (high - low or abs(high) or 1.0) * 0.06
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    strips = []
    for group in groups:
        spread = group.spread(objective)
        if spread is None:
            continue
        style = "baseline" if group is baseline else "oracle" if group is oracle else ""
        cell = score_cell(objective, spread)
        aside, _ = _change(group, baseline, objective)
        dots = [place(value) for value in values[id(group)]]
        strips.append(Strip(group.label, dots, place(spread.mean), cell.text, aside, style))
    return strips, (objective.shown(low), objective.shown(high))


def _classes_table(groups: Sequence[Group], objective: Score | None) -> Table | None:
    if objective is None:
        return None
    runs = [run for group in groups for run in group.runs]
    scores = list(
        dict.fromkeys(s for run in runs for s in run.scores if s.item and not s.role and s.place == objective.place)
    )
    if not scores:
        return None
    spreads = [[group.spread(score) for group in groups] for score in scores]
    tints = tinted([[spread.mean if spread else None for spread in row] for row in spreads])
    rows = []
    for score, row, tint in zip(scores, spreads, tints, strict=True):
        cells = [
            Cell(score.shown(s.mean), s.mean, tint=t) if s else Cell("–", style="faint")
            for s, t in zip(row, tint, strict=True)
        ]
        rows.append([Cell(score.item), *cells])
    panel = scores[0]._replace(item="")
    return Table(f"{titled(panel)} by class", ["class", *(group.label for group in groups)], rows, is_sortable=True)


def _options_table(groups: Sequence[Group]) -> Table | None:
    """In what the groups differ, apart from what a method has that another has not."""
    keys = differing(groups)
    if not keys:
        return None
    rows = [
        [Cell(key), *(Cell("" if value is None else str(value), style="text") for value in values)]
        for key, values in sorted(keys.items())
    ]
    return Table("Options that differ", ["option", *(group.label for group in groups)], rows)


def _runs_table(groups: Sequence[Group], runs: Sequence[Run], objective: Score | None, beside: Path) -> Table:
    scores = overall(runs, objective)
    columns = ["run", "configuration", "seed", *(titled(score) for score in scores)]
    columns += ["time", "peak memory", "weights tested"]
    rows = []
    for group in groups:
        for run in group.runs:
            page = run.folder / "report.html"
            link = os.path.relpath(page, beside) if page.is_file() else ""
            seconds, peak = run.summary.get("seconds"), run.summary.get("peak_memory_mb")
            rows.append(
                [
                    Cell(run.folder.name, link=link),
                    Cell(group.label, style="text"),
                    Cell("" if run.seed is None else str(run.seed), run.seed if isinstance(run.seed, int) else None),
                    *(Cell(score.shown(run.scores.get(score)), run.scores.get(score)) for score in scores),
                    Cell(duration(seconds), seconds),
                    Cell(memory(peak), peak),
                    Cell(run.selection if run.is_finished else "not finished", style="text"),
                ]
            )
    return Table("Every run", columns, rows, is_sortable=True)


def _pictures(groups: Sequence[Group], embedded: Mapping[Path, Embedded]) -> list[SameImages]:
    found: dict[str, list[Figure]] = {}
    for group in groups[:_PICTURED_GROUPS]:
        for kind in by_kind(group.runs[0], dict(embedded)):
            for figure in kind.figures:
                if figure.picture:
                    name = Path(figure.file).stem.partition("_")[2].replace("_", " ")
                    title = f"{kind.title}, {name}" if name else kind.title
                    found.setdefault(title, []).append(replace(figure, title=group.label))
    return [SameImages(title, figures) for title, figures in found.items()]
