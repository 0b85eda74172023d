"""Lines of progress."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
from tiny_runs import built, trainer

from da_lightning.training import progress
from da_lightning.training.progress import ProgressLines, has_terminal, spoken_time, tracked, with_lines


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "da_lightning.training.progress")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "da_lightning.training.progress"]


class Clock:
    """Seconds pass as a test wants."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def test_a_short_training_gets_its_first_and_its_last_line(tmp_path: Path, lines: Any) -> None:
    module, data = built("cbst")
    trainer(tmp_path, ProgressLines()).fit(module, data)
    first, last = lines()
    assert re.fullmatch(r"Iteration 1 of 6: segmenter/segmentation [\d.]+\.", first)
    assert re.fullmatch(r"Iteration 6 of 6: segmenter/segmentation [\d.]+, [\d.e+]+/s\.", last)


def test_a_long_one_gets_more(tmp_path: Path, lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock(20.0))
    module, data = built("munit")
    run = trainer(tmp_path, ProgressLines())
    run.fit(module, data)
    run.test(module, data, verbose=False)
    said = lines()
    assert any(re.search(r"Iteration \d of 6: .*, [\d.e-]+/s, \d+ (s|min \d+ s) left\.", line) for line in said)
    assert any(line.startswith("Testing: ") for line in said)
    assert "generators " in said[0] or "generator " in said[0], said[0]


def test_phases_of_self_training_are_told(tmp_path: Path, lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock(20.0))
    module, data = built("cbst", "method.spatial_prior=true", "method.target_statistics=true")
    trainer(tmp_path, ProgressLines()).fit(module, data)
    for what in ("Predicting the target", "Pseudo labels", "Spatial prior", "Statistics of the target"):
        assert any(line.startswith(f"{what}: ") for line in lines()), what


def test_without_lines_or_a_bar_it_is_silent(tmp_path: Path, lines: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_ = SimpleNamespace(callbacks=[L.Callback()], is_global_zero=True)
    assert list(tracked(trainer_, range(3), "Counting", 3)) == [0, 1, 2]  # type: ignore[arg-type]
    assert not lines() and not capsys.readouterr().out


def test_time_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "time", Clock(10.0))
    assert list(with_lines(range(20), "Counting", 20, lambda line, *values: said.append(line % values))) == [*range(20)]
    assert said and all(re.fullmatch(r"Counting: \d+ of 20, 0\.\d+/s, .* left\.", line) for line in said)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (200, "3 min 20 s"), (10860, "3 h 1 min"), (90000, "1 d 1 h"), (-5, "0 s")],
)
def test_times_are_spoken(seconds: float, text: str) -> None:
    assert spoken_time(seconds) == text


def test_a_pipe_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not has_terminal()
