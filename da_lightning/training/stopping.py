"""Where a training, a validation and a test stop at a signal, and Lightning's own way with signals turned off."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

from da_lightning.stopping import Progress, attend, check, has_ranks, is_stopping
from da_lightning.training.module import AdaptationModule


class StopAtSignal(L.Callback):
    """Stops between two batches; an epoch whose last batch is done is saved first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.progress = Progress()
        self._file: tuple[int, int] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            folder = Path(trainer.default_root_dir)
            self.progress = Progress(folder, total=cast(AdaptationModule, pl_module).total_iters, look=self._look)
            self._file = self._last()
            attend(self.progress)
        check()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.progress.doing = self.name
        self.progress.done = cast(AdaptationModule, pl_module).iteration
        if trainer.ckpt_path is not None:
            self.progress.saved = self.progress.done
        check()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._look()
        check()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress.done = cast(AdaptationModule, pl_module).iterations_done
        if not (trainer.is_last_batch or trainer.should_stop or self.progress.done >= self.progress.total):
            check()

    def on_validation_batch_start(self, *arguments: Any, **options: Any) -> None:
        check()

    def on_train_end(self, *arguments: Any, **options: Any) -> None:
        self._look()
        check()

    def on_test_start(self, *arguments: Any, **options: Any) -> None:
        self._look()
        self.progress.doing = f"the test after {self.name}"
        check()

    def on_test_batch_start(self, *arguments: Any, **options: Any) -> None:
        check()

    def _look(self) -> None:
        """A checkpoint that is newer than the last look is of the iterations done by then."""
        file = self._last()
        if file != self._file:
            self._file = file
            self.progress.saved = self.progress.done if file else None

    def _last(self) -> tuple[int, int] | None:
        assert self.progress.folder is not None
        try:
            found = (self.progress.folder / "checkpoints" / "last.ckpt").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


_terminate_all = _ChildProcessObserver._terminate_all


def _terminate_unless_stopping(observer: _ChildProcessObserver) -> None:
    if not is_stopping():
        _terminate_all(observer)


def take_signals_from(trainer: L.Trainer) -> None:
    """Turn off Lightning's handlers: they save in the middle of an epoch, requeue, and call collectives in a signal.

    Its observer kills all processes when one has ended with an error; not while they stop.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    _ChildProcessObserver._terminate_all = _terminate_unless_stopping  # type: ignore[assignment,method-assign]
    has_ranks(lambda: getattr(trainer.strategy.launcher, "procs", ()))
