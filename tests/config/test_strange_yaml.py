"""Class maps and other YAML of strangers: larger than they look, words that YAML takes for values, no files at all."""

import os
from pathlib import Path

import pytest

from da_lightning.config.class_map import read_class_map
from da_lightning.errors import UserError
from da_lightning.yaml_files import YamlError, check_yaml, read_yaml


def class_map(folder: Path, text: str) -> str:
    (folder / "classes.yaml").write_text(text)
    return str(folder / "classes.yaml")


def complaint(path: str) -> str:
    with pytest.raises(UserError) as caught:
        read_class_map(path)
    message = str(caught.value)
    assert message.startswith(f"The class map {path} ") and message.endswith(".") and "\n" not in message
    return message


def laughs(levels: int, of: str = "[{0}]", each: int = 9) -> str:
    lines = ["a0: &a0 [1, 2, 3]"]
    lines += [f"a{i}: &a{i} " + of.format(", ".join([f"*a{i - 1}"] * each)) for i in range(1, levels)]
    return "\n".join(lines)


def test_aliases_are_counted_before_they_are_expanded(tmp_path):
    road = "road: {ids: [1], color: [0, 0, 0]}"
    for text in (
        laughs(9),
        "<<: {x: &x [" + ", ".join(["1"] * 9) + "]}\n" + laughs(8),
        laughs(4, each=99),
        "a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 5000) + "]",
    ):
        assert len(text) < 150_000
        assert "values once its aliases are expanded" in complaint(class_map(tmp_path, f"classes:\n  {road}\n{text}"))
    assert "stands within &a itself" in complaint(class_map(tmp_path, "classes: &a {road: *a}"))
    for deep in ("[" * 5000, "{a: " * 5000, "- " * 5000, "? " * 5000):
        assert "nest" in complaint(class_map(tmp_path, deep))
    check_yaml(laughs(3))


def test_aliases_that_people_write_still_work(tmp_path):
    path = class_map(
        tmp_path,
        "classes:\n  road: &road {ids: [1], color: &grey [9, 9, 9]}\n  wall: {<<: *road, ids: [2]}\n"
        "  pole: {ids: [3], color: *grey}\n",
    )
    assert read_class_map(path).colors == dict.fromkeys(("road", "wall", "pole"), [9, 9, 9])
    assert read_class_map(path).ids == {1: 0, 2: 1, 3: 2}


WORDS = ("no", "yes", "on", "off", "true", "1", "1.0", "0x1f", "null", "~", "1:30", "2020-01-01", ".inf", "道路", "= 3")


def test_class_names_are_the_words_in_the_file(tmp_path):
    entries = "".join(f"  {word}: {{ids: [{i}], color: [{i}, 0, 0]}}\n" for i, word in enumerate(WORDS))
    found = read_class_map(class_map(tmp_path, f"classes:\n{entries}"))
    assert tuple(found.colors) == WORDS and found.ids == {i: i for i in range(len(WORDS))}


def test_escape_sequences_in_class_names_are_made_visible(tmp_path):
    entries = '"\\e[31mroad\\e[0m": {ids: [1], color: [0, 0, 0]}, "a\\nb": {ids: [2], color: [0, 0, 0]}'
    found = read_class_map(class_map(tmp_path, f"classes: {{{entries}}}"))
    assert list(found.colors) == ["\\x1b[31mroad\\x1b[0m", "a\\nb"]
    both = "\"a\\nb\": {ids: [1], color: [0, 0, 0]}, 'a\\nb': {ids: [2], color: [0, 0, 0]}"
    assert "differ in control characters alone" in complaint(class_map(tmp_path, f"classes: {{{both}}}"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "(it is empty)"),
        ("classes: {road: {ids: [1], color: [0,0,0]}, road: {ids: [2], color: [0,0,0]}}", "found the key road twice"),
        ("classes: {[1]: 2}", "found a key that is no word"),
        ("classes: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("classes: {road: {ids: [1], color: [0,0,0]}", "while parsing a flow mapping"),
        ("classes: {road: {ids: [" + "9" * 5000 + "], color: [0,0,0]}}", "integer string conversion"),
        ("- road", "mistake at the whole"),
        ("classes: {road: null}", "mistake at classes.road"),
        ("classes: {a/b: {ids: [1], color: [0,0,0]}}", "mistake at classes.a/b"),
        ("classes: {" + "a" * 61 + ": {ids: [1], color: [0,0,0]}}", "at most 60 characters"),
        ("a" * 5 * 2**20, "larger than 4 MB"),
        ("PK\x03\x04", "it is a zip archive, not text"),
        ("a\0", "zero bytes"),
    ],
)
def test_what_is_no_class_map(tmp_path, text, words):
    assert words in complaint(class_map(tmp_path, text))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "it is a named pipe, not a file" in complaint(str(tmp_path / "pipe.yaml"))
    assert "it is a device, not a file" in complaint("/dev/zero")
    assert "it is a folder, not a file" in complaint(str(tmp_path))
    assert "it does not exist" in complaint(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"classes: {caf\xe9: 1}")
    assert "no text in UTF-8" in complaint(str(tmp_path / "latin.yaml"))
    assert "cannot be read" in complaint("~nobody_at_all/classes.yaml")
    with pytest.raises(YamlError, match="named pipe"):
        read_yaml(tmp_path / "pipe.yaml")
