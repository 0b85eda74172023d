from pathlib import Path

import pytest
import torch

from da_lightning.errors import CheckpointError
from da_lightning.training.checkpoints import read_checkpoint


def refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


def test_plain_values_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, tmp_path / "a.ckpt")
    content = read_checkpoint(str(tmp_path / "a.ckpt"))
    assert content["epoch"] == 3
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))


def test_other_kinds_of_files_are_no_checkpoints(tmp_path: Path) -> None:
    for name, text in (("hparams.yaml", "method: cbst\nseed: 0\n"), ("a.csv", "epoch,step\n1,2\n"), ("b.json", "{}")):
        (tmp_path / name).write_text(text)
        refusal(tmp_path / name)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    assert "can run code" in refusal(tmp_path / "trap.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2000)}, tmp_path / "whole.ckpt")
    content = (tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.ckpt").touch()
    torch.save([1, 2], tmp_path / "list.ckpt")
    assert "no file there" in refusal(tmp_path / "none.ckpt")
    assert "cut off" in refusal(tmp_path / "cut.ckpt")
    assert "cut off" in refusal(tmp_path / "empty.ckpt")
    assert "holds a list" in refusal(tmp_path / "list.ckpt")
