"""The report of runs: what it reads, what it compares, what it says and how large it gets."""

import html
import json
import logging
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from report_runs import CLASSES, finished_run, noise, swept_runs, write, write_points

import da_lightning.report
from da_lightning.errors import UserError
from da_lightning.report import leave_report, report
from da_lightning.reporting.charts import Line, line_chart, round_numbers, thinned
from da_lightning.reporting.comparison import Sweep, find_group, grouped
from da_lightning.reporting.pictures import embed
from da_lightning.reporting.runs import find_runs, read_run
from da_lightning.reporting.scores import Score, parse


def page_of(*folders: Path, **options: str) -> str:
    """The text that a reader sees, tags and markup gone, and spaces made single."""
    source = report(folders, folders[0].parent / "page.html", **options).read_text()
    assert "<html" in source
    body = re.sub(r"(?s)<(style|script)>.*?</\1>", "", source)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body.replace("<wbr>", ""))).split())


# -- one run -----------------------------------------------------------------------------------------------------------


def test_a_run_says_whether_it_adapted_where_and_at_what_price(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", miou=0.5, before=0.42, overrides=["method.portion=0.3"])
    text = page_of(run)
    assert "Target mIoU %".lower() in text.lower()
    assert "42.0 source only 50.0 +8.0 cbst" in text
    assert "road 40.0 +8.0" in text and "sky 60.0 +8.0" in text
    for fact in ("Seed 0", "Weights tested last iteration", "Time 2 min 34 s", "Peak memory 1,234 MB", "torch 2.10.0"):
        assert fact in text
    assert "method.portion 0.3" in text
    assert "root: /data" in text
    assert "Note" not in text


def test_the_oracle_closes_the_scale(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", miou=0.5, before=0.4)
    oracle = finished_run(tmp_path / "oracle", method="source_only", miou=0.6)
    text = page_of(run, oracle=str(oracle))
    assert "target mIoU (%) 40.0 50.0 +10.0 60.0 50 %" in text


def test_a_baseline_stands_in_for_source_only(tmp_path: Path) -> None:
    run, other = finished_run(tmp_path / "run", miou=0.5), finished_run(tmp_path / "other", "adaptsegnet", miou=0.55)
    assert "target mIoU (%) 55.0 50.0 −5.0" in page_of(run, baseline=str(other))


@pytest.mark.parametrize("sweeper", ["optuna_sweeper.OptunaSweeper", "basic_sweeper.BasicSweeper"])
def test_options_that_a_search_chose_by_target_labels_carry_a_warning(sweeper: str, tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {"method.portion": [0.1, 0.2]})
    write(sweep / "multirun.yaml", f"hydra: {{sweeper: {{_target_: hydra_plugins.{sweeper}}}}}")
    text = page_of(sweep)
    assert ("A search chose the options by target mIoU" in text) == ("optuna" in sweeper)


@pytest.mark.parametrize(
    ("selection", "is_warned"),
    [
        ("last iteration", False),
        ("lowest entropy on the target, without target labels", False),
        ("best target/miou", True),
        ("target labels", True),
        ("oracle: best on the target test set", True),
    ],
)
def test_figures_that_target_labels_chose_carry_a_warning(selection: str, is_warned: bool, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", selection=selection)
    other = finished_run(tmp_path / "b", "adaptsegnet")
    for text in (page_of(run), page_of(run, other)):
        assert ("Target labels chose the tested weights" in text) == is_warned
        assert selection in text


def test_rounds_show_shares_and_thresholds_in_the_order_of_the_classes(tmp_path: Path) -> None:
    text = page_of(finished_run(tmp_path / "run"))
    assert "asked for 10.0 20.0 all pixels 10.0 20.0 road 10.0 20.0 car 11.0 21.0 sky 12.0 22.0" in text
    assert "Confidence a pixel must reach round 1 round 2 road 0.900 0.900 car 0.800 0.800" in text


def test_pictures_are_inside_by_kind_and_in_order(tmp_path: Path) -> None:
    names = ["pseudo_labels_round_10", "pseudo_labels_round_2", "test_target", "source_only_target", "test_day_val"]
    run = finished_run(tmp_path / "run", pictures=[*names, "per_class", "spatial_prior/road", "train_source"])
    source = report([run]).read_text()
    alts = re.findall(r'<img src="data:image/[a-z]+;base64,[^"]+" [^>]*alt="([^"]+)"', source)
    assert [alt.partition(".")[0] for alt in alts] == [
        "Test images, target: source only",
        "Test images, target: cbst",
        "Test images, day val: cbst",
        "Pseudo labels, round by round, round 2",
        "Pseudo labels, round by round, round 10",
        "Training samples, source",
        "Spatial prior, road",
    ]
    assert "prediction" in alts[0]


def test_the_page_asks_for_nothing_from_outside_and_escapes_what_it_shows(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", overrides=["method.name=<script>alert(1)</script>"], pictures=["test_<b>"])
    source = report([run]).read_text()
    assert "<script>alert" not in source and "test_<b>" not in source
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?://""", source)
    assert "default-src 'none'" in source


def test_an_unfinished_run_shows_what_it_logged(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    text = page_of(run)
    assert "has not finished" in text
    assert "adversarial" in text


def test_a_run_without_hydra_or_test_sets_has_its_page(tmp_path: Path) -> None:
    write(tmp_path / "old" / "metrics.json", json.dumps({"method": "munit", "data": "shoes", "test": {}, "seconds": 9}))
    write(tmp_path / "old" / "hparams.yaml", yaml.dump({"style_dim": 8, "image_size": (8, 4)}))
    text = page_of(tmp_path / "old")
    assert read_run(tmp_path / "old").method_options["image_size"] == [8, 4]
    assert "munit" in text and "style_dim: 8" in text and "no score" in text


def test_scores_that_are_not_there_are_dashes(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", before=0.4)
    summary = json.loads((run / "metrics.json").read_text())
    summary["test"] |= {"target/iou/car": None, "source/miou": None}
    write(run / "metrics.json", json.dumps(summary))
    text = page_of(run)
    assert "source mIoU (%) 40.0 –" in text and "car –" in text


def test_stages_come_with_the_run_and_are_no_runs_of_their_own(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "spgan" / "run", method="spgan")
    stage = finished_run(run / "translator", method="spgan/translator", pictures=["test_source"])
    assert find_runs(tmp_path) == [run]
    assert "Stage: translator" in page_of(run)
    assert "data:image" in report([run]).read_text()
    assert read_run(run).stages[0].folder == stage


def test_attempts_of_a_resumed_run_are_one_curve(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_points(run / "metrics.2.csv", [{"loss": 1.0, "step": 10}, {"loss": 20.0, "step": 20}])
    write_points(run / "metrics.10.csv", [{"loss": 2.0, "step": 20}, {"loss": 30.0, "step": 30}])
    write_points(run / "metrics.csv", [{"loss": 3.0, "step": 30}, {"loss": float("nan"), "step": 40}])
    with (run / "metrics.csv").open("a") as file:
        file.write("4.0,50,more\n5.0")  # a row with too much, and one that was torn
    assert read_run(run).curves["loss"] == [(10, 1), (20, 2), (30, 3), (50, 4)]


# -- several runs ------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_only_are_one_row(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / f"cbst_{s}", seed=s, miou=0.5 + 0.02 * s, options={"portion": 0.2}) for s in range(3)
    ]
    other = finished_run(tmp_path / "other", miou=0.4, options={"portion": 0.4})
    groups = grouped([read_run(run) for run in (*runs, other)])
    assert [(group.label, len(group.runs)) for group in groups] == [("cbst, portion=0.2", 3), ("cbst, portion=0.4", 1)]
    spread = groups[0].spread(Score("", "target", "miou"))
    assert spread and (spread.mean, spread.deviation) == pytest.approx((0.52, 0.02))
    assert "52.0 ± 2.0" in page_of(*runs, other)


def test_a_checkpoint_stands_for_how_its_run_was_made(tmp_path: Path) -> None:
    for seed, iters in ((0, 100), (1, 100), (2, 200)):
        start = finished_run(tmp_path / f"start_{seed}", "source_only", seed, options={"max_iters": iters})
        write(start / "checkpoints" / "last.ckpt", "")
        options = {"init_from": str(start / "checkpoints" / "last.ckpt")}
        finished_run(tmp_path / "cbst" / str(seed), seed=seed, options=options)
    groups = grouped([read_run(run) for run in find_runs(tmp_path / "cbst")])
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]


def test_runs_of_unknown_configuration_stand_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(
            tmp_path / name / "metrics.json", json.dumps({"method": "cbst", "data": "d", "test": {"target/miou": 0.5}})
        )
    assert len(grouped([read_run(tmp_path / name) for name in ("a", "b")])) == 2


def test_differences_to_a_baseline_are_between_runs_of_the_same_seed(tmp_path: Path) -> None:
    for seed, (before, after) in enumerate(((0.2, 0.31), (0.4, 0.49))):
        finished_run(tmp_path / f"so_{seed}", "source_only", seed, miou=before)
        finished_run(tmp_path / f"cbst_{seed}", "cbst", seed, miou=after)
    groups = grouped([read_run(run) for run in find_runs(tmp_path)])
    baseline = find_group(groups, "source_only", "baseline")
    found = find_group(groups, str(tmp_path / "cbst_1"), "baseline").difference(baseline, Score("", "target", "miou"))
    assert found and found[1]
    assert (found[0].mean, found[0].deviation) == pytest.approx((0.10, 0.01414), abs=1e-4)
    assert "40.0 ± 12.7 +10.0 ± 1.4" in page_of(tmp_path, baseline="source_only")


def test_less_is_better_where_it_is_and_the_best_is_marked(tmp_path: Path) -> None:
    for name, fid in (("munit", 20.0), ("unit", 30.0)):
        write(tmp_path / name / "metrics.json", json.dumps({"method": name, "data": "d", "test": {"target/fid": fid}}))
    source = report([tmp_path / "munit", tmp_path / "unit"], tmp_path / "page.html", baseline="unit").read_text()
    assert re.search(r'class="good best" data-value="20.0">20<small>−10</small>', source)


def test_a_baseline_need_not_be_among_the_runs(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name, name, miou=0.5) for name in ("cbst", "adaptsegnet")]
    other = finished_run(tmp_path / "elsewhere" / "so", "source_only", miou=0.3)
    text = page_of(*runs, baseline=str(other))
    assert "source_only baseline" in text and "+20.0" in text


def test_runs_on_different_data_are_named(tmp_path: Path) -> None:
    a, b = finished_run(tmp_path / "a"), finished_run(tmp_path / "b")
    write(b / "metrics.json", (b / "metrics.json").read_text().replace("toy_streets", "gta2cityscapes"))
    assert "different data (toy_streets, gta2cityscapes)" in page_of(a, b)


def test_rows_lead_to_the_pages_of_their_runs(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / "runs" / str(seed), seed=seed) for seed in range(2)]
    report([runs[1]])
    source = report(runs, tmp_path / "page.html").read_text()
    assert re.findall(r'href="([^"]+)"', source) == ["data:,", "runs/1/report.html"]


# -- sweeps ------------------------------------------------------------------------------------------------------------


def test_one_numeric_key_is_a_line_over_its_values(tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {"method.portion": [0.1, 0.2, 0.4]}, seeds=(0, 1))
    source = report([sweep]).read_text()
    (alt,) = re.findall(r'<svg [^>]*aria-label="([^"]+)"', source)
    assert "mIoU (%) by method.portion. target: 20.5 at 0.1, 30.5 at 0.2, 40.5 at 0.4." in alt
    assert (sweep / "report.html").is_file()
    assert "20.5 ± 0.7" in page_of(sweep)


def test_two_keys_are_a_heat_map(tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {"method.portion": [10, 9], "method.policy": ["global", "balanced"]})
    text = page_of(sweep)
    assert "portion ↓ policy → balanced global 9 40.0 30.0 10 30.0 20.0" in text
    assert "<svg" not in report([sweep]).read_text()


def test_other_sweeps_are_tables(tmp_path: Path) -> None:
    three = {"method.portion": [1, 2], "method.rounds": [1, 2], "method.policy": ["a", "b"]}
    for number, keys in enumerate((three, {"method.policy": ["a", "b"]})):
        sweep = swept_runs(tmp_path / str(number), keys)
        source = report([sweep]).read_text()
        assert "<svg" not in source
        assert all(key.rpartition(".")[2] in page_of(sweep) for key in keys)


def test_the_seed_is_averaged_not_swept(tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {}, seeds=(0, 1, 2))
    runs = [read_run(run) for run in find_runs(sweep)]
    assert Sweep(sweep, runs).keys == []
    assert "21.0 ± 1.0" in page_of(sweep)


def test_jobs_that_left_nothing_are_named(tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {"method.portion": [0.1, 0.2, 0.4]})
    for file in ("metrics.json", "metrics.csv"):
        (sweep / "1" / file).unlink()
    assert "Jobs that left no results, failed or still running: 1." in page_of(sweep)


def test_the_stage_of_a_job_that_failed_is_no_job(tmp_path: Path) -> None:
    sweep = swept_runs(tmp_path / "sweep", {"method.portion": [0.1, 0.2, 0.4]})
    for file in ("metrics.json", "metrics.csv"):
        (sweep / "1" / file).unlink()
    finished_run(sweep / "1" / "translator", method="spgan/translator")
    assert find_runs(sweep) == [sweep / "0", sweep / "2"]
    assert "Jobs that left no results, failed or still running: 1." in page_of(sweep)


def test_runs_whose_scores_are_all_nan_have_their_page(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name, name) for name in ("adaptsegnet", "cbst")]
    for run in runs:
        summary = json.loads((run / "metrics.json").read_text())
        summary["test"] = {"target/miou": None}
        write(run / "metrics.json", json.dumps(summary))
    assert "adaptsegnet" in page_of(*runs)


# -- mistakes ----------------------------------------------------------------------------------------------------------


def broken(folder: Path) -> Path:
    write(folder / "metrics.json", '{"test": {"target/miou": 0.')
    return folder


def without_scores(folder: Path) -> Path:
    write(folder / "metrics.json", '{"test": [1, 2]}')
    return folder


def with_torn_config(folder: Path) -> Path:
    write(finished_run(folder) / ".hydra" / "config.yaml", "method: {name: [")
    return folder


def with_expanding_config(folder: Path) -> Path:
    expanding = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
    write(finished_run(folder) / ".hydra" / "config.yaml", f"a0: &a0 [x]\n{expanding}")
    return folder


def without_metrics(folder: Path) -> Path:
    write(folder / "log.txt", "")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "is no folder"),
        (without_metrics, "neither metrics.json nor metrics.csv"),
        (broken, "metrics.json is not whole"),
        (without_scores, "metrics.json is no summary of a run"),
        (with_torn_config, "config.yaml cannot be read"),
        (with_expanding_config, "config.yaml cannot be read"),
    ],
)
def test_what_is_no_run_is_told_in_a_sentence(make, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        report([make(tmp_path / "run")])
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "nobody"}, "baseline=nobody names none .* 'adaptsegnet', 'cbst'"),
        ({"oracle": "none"}, "oracle=none names none"),
    ],
)
def test_a_name_of_none_of_the_runs_is_answered_with_the_labels(options: dict, message: str, tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name, name) for name in ("adaptsegnet", "cbst")]
    with pytest.raises(UserError, match=message):
        report(runs, tmp_path / "page.html", **options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"],
        ["run", "colour=red"],
        ["run", "output=no/such/page.html"],
        ["run", "baseline=cbst"],
        ["output=page.html"],
    ],
)
def test_the_command_ends_with_a_sentence_and_no_page(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    with pytest.raises(SystemExit) as raised:
        da_lightning.report.main()
    assert str(raised.value).startswith("error: ") and len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_writes_the_page_and_needs_no_torch(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a=b", pictures=["test_target"])
    command = [sys.executable, "-X", "importtime", "-m", "da_lightning.report", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(run / "report.html")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "jinja2" in imported and not imported & {"torch", "lightning", "matplotlib"}


def test_a_page_that_fails_does_not_fail_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        leave_report(broken(tmp_path / "run"))
    assert len(caplog.records) == 1 and "no report.html" in caplog.text


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    draw = random.Random(0)
    write_points(run / "metrics.csv", [{"step": n, "train/loss": draw.random()} for n in range(100_000)])
    for number in range(500):
        noise(run / "pictures" / f"styles_{number}.png", (100, 100))
    assert sum(file.stat().st_size for file in run.rglob("*.png")) > 15_000_000
    page = report([run])
    assert page.stat().st_size < 15_000_000
    source = page.read_text()
    assert source.count("<img") == 500
    (raw,) = re.findall(r'class="raw" d="([^"]+)"', source)
    assert 400 < raw.count("L") < 500


def test_pictures_keep_within_their_budget_and_their_shape(tmp_path: Path) -> None:
    for number in range(6):
        noise(tmp_path / f"{number}.png", (160, 80))
    write(tmp_path / "torn.png", "no picture")
    files = sorted(tmp_path.iterdir())
    embedded = embed(files, budget=60_000)
    assert set(embedded) == set(files[:6])
    assert sum(len(picture.uri) for picture in embedded.values()) * 3 / 4 < 60_000
    assert all(abs(picture.width / picture.height - 2) < 0.1 for picture in embedded.values())


def test_small_pictures_are_embedded_as_they_are(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", (8, 8))
    (picture,) = embed([tmp_path / "a.png"]).values()
    assert picture.uri.startswith("data:image/png") and (picture.width, picture.height) == (8, 8)


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", pictures=["test_target"])
    whole = (run / "pictures" / "test_target.png").read_bytes()
    (run / "pictures" / "train_target.png").write_bytes(whole[:200])
    assert "cannot be read were left out: train_target.png" in page_of(run)
    Image.open(run / "pictures" / "test_target.png").load()


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_thinned_curves_keep_ends_and_extremes() -> None:
    draw = random.Random(0)
    points = [(float(x), draw.random()) for x in range(10_000)]
    kept = thinned(points, 500)
    assert len(kept) <= 500
    assert kept == sorted(kept) and {points[0], points[-1]} <= set(kept) <= set(points)
    for extreme in (min, max):
        assert extreme(y for _, y in kept) == extreme(y for _, y in points)
    assert thinned(points[:500], 500) == points[:500]


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 2, [0, 0.5, 1]),
        (-3, 4, 4, [-2, 0, 2, 4]),
        (0.021, 0.029, 4, [0.022, 0.024, 0.026, 0.028]),
        (999, 1001, 2, [999, 1000, 1001]),
    ],
)
def test_ticks_are_round_and_within(low: float, high: float, count: int, expected: list[float]) -> None:
    assert round_numbers(low, high, count) == pytest.approx(expected)


def test_wide_positive_values_get_a_logarithmic_axis() -> None:
    chart = line_chart("loss", [Line("loss", [(9, 1000.0), (1000, 0.1)])], "iteration", "")
    assert [text for _, text in chart["x_ticks"]] == ["200", "400", "600", "800", "1,000"]
    assert [text for _, text in chart["y_ticks"]] == ["0.1", "1", "10", "100", "1,000"]
    heights = [y for y, _ in chart["y_ticks"]]
    assert [a - b for a, b in zip(heights, heights[1:], strict=False)] == pytest.approx(
        [heights[0] - heights[1]] * 4, abs=0.2
    )


def test_flat_curves_and_single_points_can_be_drawn() -> None:
    for points in ([(0, 0.0), (1, 0.0)], [(5, 3.0)]):
        chart = line_chart("loss", [Line("loss", points)], "iteration", "")
        assert all(0 <= y <= chart["size"][1] for _, y in chart["lines"][0]["points"])


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("target/miou", Score("", "target", "miou")),
        ("source_only/target/iou/traffic/light", Score("source_only", "target", "iou", "traffic/light")),
        ("fid", Score("", "", "fid")),
        ("oracle/target/map", Score("oracle", "target", "map")),
    ],
)
def test_names_of_scores_are_parsed(name: str, score: Score) -> None:
    assert parse(name) == score


def test_colours_of_classes_are_those_of_the_configuration(tmp_path: Path) -> None:
    run = read_run(finished_run(tmp_path / "run"))
    assert run.colours == {name: tuple(colour) for name, colour in CLASSES.items()}
