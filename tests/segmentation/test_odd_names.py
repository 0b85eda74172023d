"""Pseudo labels of images whose names are not UTF-8, or hold what no name should."""

import os

import pytest
import torch

from da_lightning.files import read_png, write_png


@pytest.mark.parametrize("name", [b"caf\xe9", b"tab\tname", b"-rf", b"new\nline", b"dot.", b"100%#?"])
def test_a_label_map_is_read_as_it_was_written(tmp_path, name):
    label = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    file = tmp_path / f"{os.fsdecode(name)}.png"
    write_png(label, file)
    assert torch.equal(read_png(file), label)
    assert os.listdir(os.fsencode(tmp_path)) == [name + b".png"]
