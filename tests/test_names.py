"""Names with what a terminal obeys: seen on no screen, in no log, on no page as they are."""

import json
import logging
import os
import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import command, succeeded

from da_lightning.errors import DataError, UserError
from da_lightning.names import ShownRecord, shown
from da_lightning.run import _sentence

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_what_is_hidden_is_made_visible():
    assert shown("\x1b[31mred\x07\r\n\u202e\x9b\u2028\x00") == "\\x1b[31mred\\x07\\r\\n\\u202e\\x9b\\u2028\\x00"
    assert shown("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert shown(Path(os.fsdecode(b"caf\xe9.png"))) == "caf\\xe9.png"
    assert shown("道路 🏳️‍🌈 می‌خواهم é\u0301") == "道路 🏳️‍🌈 می‌خواهم é\u0301"
    for number in range(0x110000):
        is_hidden = unicodedata.category(chr(number)) in HIDDEN and number not in (0x200C, 0x200D)
        assert not is_hidden or shown(chr(number)).isascii(), hex(number)


def test_errors_and_log_lines_are_of_one_line():
    assert str(UserError("the file \x1b[2Ja\nerror: b.png")) == "the file \\x1b[2Ja\\nerror: b.png"
    record = ShownRecord("a", 20, "a.py", 1, "%s has\n%d", ("\x1b]0;x\x07\nERROR", 3), None)
    assert record.getMessage() == "\\x1b]0;x\\x07\\nERROR has\n3"
    worker = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File x\n"
    assert _sentence(DataError(f"{worker}da_lightning.errors.DataError: a.png\\n is cut.\n")) == "a.png\\n is cut."


def test_a_warning_of_a_library_is_shown(capfd):
    from da_lightning.screen import steady_output

    before = logging.getLogRecordFactory(), logging.raiseExceptions
    try:
        steady_output()
        logging.getLogger("theirs").warning("odd \x1b[31mname")
        assert logging.getLogRecordFactory() is ShownRecord
    finally:
        logging.setLogRecordFactory(before[0])
        logging.raiseExceptions = before[1]


@pytest.mark.slow
def test_a_run_with_such_names_shows_none_of_them(tmp_path):
    """Classes, files, list lines and a test set, through the real command: screen, log, page and records."""
    random = __import__("numpy").random.default_rng(0)
    escape = "\x1b[31mred\x1b]0;owned\x07"
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for number in range(3):
            name = f"{escape}{number}\n.png".encode() + (b"" if number else b".caf\xe9.png")
            pixels = random.integers(0, 256, (16, 16, 3)) if folder == "images" else random.integers(1, 3, (16, 16))
            Image.fromarray(pixels.astype("uint8")).save(tmp_path / "set" / folder / os.fsdecode(name), "PNG")
    (tmp_path / "classes.yaml").write_text(
        'classes: {"\\e[31mroad\\a": {ids: [1], color: [1, 2, 3]}, no: {ids: [2], color: [9, 9, 9]}}'
    )
    sets = [f"data.{name}.root={tmp_path}/set" for name in ("source", "target", "tests.target")]
    run = succeeded(
        command(
            [
                "method=segmentation_source_only", "data=image_label_folders_tested", *sets, "method.max_iters=2",
                f"data.class_map={tmp_path}/classes.yaml", "data.image_size=[16,16]", "data.batch_size=2",
                "data.num_workers=0", "network@method.network=light", "method.network.width=8", "trainer=cpu",
                "logger=csv", "hydra.run.dir=run",
            ],
            tmp_path,
        )
    )  # fmt: skip
    scores = json.loads((tmp_path / "run/metrics.json").read_text())["test"]
    assert {"target/iou/no", "target/iou/\\x1b[31mroad\\x07"} <= scores.keys()
    texts = [run.stdout, run.stderr, *((tmp_path / "run" / n).read_text() for n in ("log.txt", "report.html"))]
    for text in texts:
        assert not re.search(r"\x1b\[31m|\x1b\]|\x07|[\ud800-\udfff]", text)
    assert "\\x1b[31mroad" in texts[0] and "\\x1b[31mroad" in texts[3]
