import json
from pathlib import Path

import pytest
from torchvision.io import decode_image

from da_lightning.training.results import draw_bars, peak_memory_mb, print_table, versions, write_metrics

NAN = float("nan")
SCORES = {
    "target/miou": 0.5,
    "target/iou/road": 0.75,
    "target/iou/bus": NAN,
    "source/miou": 0.625,
    "source/iou/road": 0.875,
    "source_only/target/miou": 0.25,
    "source_only/target/iou/road": 0.125,
}


def test_nan_becomes_null_at_any_depth(tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", {"test": SCORES, "deep": {"er": {"x": NAN}}, "list": [1, "a"]})
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content["test"] == {**SCORES, "target/iou/bus": None}
    assert content["deep"] == {"er": {"x": None}}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.json"
    write_metrics(file, {"old": 1})
    write, seen = Path.write_bytes, []

    def half(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        seen.append(json.loads(file.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        write_metrics(file, {"new": 2})
    assert seen == [{"old": 1}]
    assert json.loads(file.read_text()) == {"old": 1}


def test_the_table_sets_source_only_scores_beside_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(SCORES, "cbst on toys")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cbst on toys")
    (head,) = [line for line in lines if "metric" in line]
    assert head.index("target") < head.index("source") < head.index("source_only/target")
    (miou,) = [line for line in lines if "miou" in line]
    assert [word for word in miou.split() if word[0].isdigit()] == ["50.0", "62.5", "25.0"]
    assert any("iou/bus" in line and "nan" in line for line in lines)


def test_only_shares_are_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    print_table({"target/fid": 57.244, "target/kid": 0.01234, "target/rank1": 0.5, "source/cycle_l1": 0.25}, "munit")
    lines = [[word for word in line.split() if word not in "│┃"] for line in capsys.readouterr().out.splitlines()]
    for row in (["fid", "57.24"], ["kid", "0.01234"], ["rank1", "(%)", "50.0"], ["cycle_l1", "0.25"]):
        assert row in lines


def test_bars_for_every_test_set_or_no_file(tmp_path: Path) -> None:
    draw_bars(SCORES, tmp_path / "pictures" / "bars.png")
    two_panels = decode_image(str(tmp_path / "pictures" / "bars.png")).shape
    draw_bars({key: value for key, value in SCORES.items() if key.startswith("target")}, tmp_path / "one.png")
    one_panel = decode_image(str(tmp_path / "one.png")).shape
    assert two_panels[1] == 2 * one_panel[1]
    draw_bars({"target/miou": 0.5}, tmp_path / "none.png")
    draw_bars({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_versions_and_memory_are_known() -> None:
    assert set(versions()) >= {"python", "torch", "torchvision", "lightning"}
    assert peak_memory_mb() > 50
