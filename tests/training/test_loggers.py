"""Loggers that fail, and metrics.csv on a disk that is full."""

import csv
import errno
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tiny_runs import built, trainer

from da_lightning import files
from da_lightning.training.callbacks import Pictures
from da_lightning.training.loggers import MetricsFile, guarded
from da_lightning.training.media import MediaLogger
from da_lightning.training.wandb_logger import WandbLogger


class Broken(Logger):
    """Raises in one method, counts the calls of all."""

    def __init__(self, method: str = "", error: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        self.method, self.error, self.calls = method, error, []  # type: ignore[var-annotated]

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.method:
            raise self.error(f"{name} is broken\nby a test")

    @property
    def name(self) -> str:
        self._call("name")
        return "broken"

    @property
    def version(self) -> str:
        return "0"

    @property
    def experiment(self) -> Any:
        self._call("experiment")
        return self

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._call("log_metrics")

    def log_hyperparams(self, params: Any, *arguments: Any) -> None:
        self._call("log_hyperparams")

    def log_graph(self, *arguments: Any) -> None:
        self._call("log_graph")

    def log_media(self, key: str, media: Any) -> None:
        self._call("log_media")

    def log_summary(self, values: Any) -> None:
        self._call("log_summary")

    def save(self) -> None:
        self._call("save")

    def after_save_checkpoint(self, callback: Any) -> None:
        self._call("after_save_checkpoint")

    def finalize(self, status: str) -> None:
        self._call("finalize")

    def close(self, failed: bool) -> None:
        self._call("close")


METHODS = ["experiment", "log_metrics", "log_hyperparams", "log_graph", "log_media", "save", "finalize"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_logger_that_raises_costs_one_warning(method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = guarded(Broken(method))
    assert isinstance(logger, Broken) and isinstance(logger, MediaLogger)
    module, data = built("segmentation_source_only")
    fit = trainer(tmp_path, Pictures(), logger=[MetricsFile(tmp_path), logger], log_every_n_steps=1)
    fit.fit(module, data)
    assert module.iterations_done >= 6
    assert method in logger.calls and logger.calls.count(method) == 1, "it was called again after it had failed"
    (warning,) = [r.getMessage() for r in caplog.records if "records nothing further" in r.getMessage()]
    assert warning.endswith(f"{method} is broken by a test") and warning.startswith("Broken ")
    logger.close(failed=False)
    assert logger.calls[-1] == "close"  # which sets right what the next run finds
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7


def test_what_ends_a_process_still_does() -> None:
    with pytest.raises(KeyboardInterrupt):
        guarded(Broken("save", KeyboardInterrupt)).save()


def test_a_guarded_logger_reaches_other_processes() -> None:
    logger = guarded(Broken("save"))
    copy = pickle.loads(pickle.dumps(logger))
    assert type(copy) is type(logger) and copy.method == "save"
    copy.save()


def test_a_tensorboard_folder_that_is_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "board").touch()
    logger = guarded(TensorBoardLogger(tmp_path, name="", version="board"))
    module, data = built("segmentation_source_only")
    trainer(tmp_path, Pictures(), logger=logger, log_every_n_steps=1).fit(module, data)
    assert len([r for r in caplog.records if "records nothing further" in r.getMessage()]) == 1


def test_a_wandb_folder_that_is_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "wandb").touch()
    logger = guarded(WandbLogger(save_dir=str(tmp_path)))
    module, data = built("segmentation_source_only")
    trainer(tmp_path, Pictures(), logger=logger, log_every_n_steps=1).fit(module, data)
    logger.close(failed=False)  # type: ignore[attr-defined]
    assert len([r for r in caplog.records if "records nothing further" in r.getMessage()]) <= 1


# -- metrics.csv -------------------------------------------------------------------------------------------------------


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_and_columns_as_lightning_writes_them(tmp_path: Path) -> None:
    for number, kind in enumerate((MetricsFile(tmp_path / "0"), CSVLogger(tmp_path, name="", version="1"))):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        kind.log_metrics({"b": 1.5, "step_": torch.tensor(2)}, step=0)
        kind.save()
        kind.log_metrics({"b": 2.5}, step=1)
        kind.save()
        kind.log_metrics({"a": float("nan")}, step=2)
        kind.log_metrics({"b": 3}, step=3)
        kind.finalize("success")
    one, other = (tmp_path / name / "metrics.csv" for name in "01")
    assert one.read_bytes() == other.read_bytes()


def test_names_of_any_letters(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"share/道路": 1.0}, step=0)
    logger.save()
    logger.log_metrics({"share/caf\udce9": 2.0}, step=1)
    logger.save()
    assert "share/道路".encode() in (tmp_path / "metrics.csv").read_bytes()


def test_a_full_disk_keeps_the_rows_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    for number in (1, 2):  # appended to, and written again for a new column
        before = (tmp_path / "metrics.csv").read_bytes()
        with monkeypatch.context() as full:
            full.setattr(files, "_sync", no_space)
            full.setattr("da_lightning.training.loggers._append", no_space)
            for step in range(2):
                logger.log_metrics({"a": 2.0, **({"b": 3.0} if number == 2 else {})}, step=10 * number + step)
                logger.save()
        assert (tmp_path / "metrics.csv").read_bytes() == before
        logger.save()
    assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["0", "10", "11", "20", "21"]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 2 and "MB are free" in warnings[0].getMessage()


def test_half_a_row_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    before = (tmp_path / "metrics.csv").read_bytes()
    real = files.os.truncate
    seen: list[int] = []
    monkeypatch.setattr("os.truncate", lambda file, size: (seen.append(size), real(file, size)))
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Half(self))
    logger.log_metrics({"a": 2.0}, step=1)
    logger.save()
    monkeypatch.undo()
    assert (tmp_path / "metrics.csv").read_bytes() == before and seen == [len(before)]


class Half:
    """A file on a disk that takes a part and is full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, text: str) -> None:
        with open(self.path, "a") as file:
            file.write(text[:2])
        no_space()


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
