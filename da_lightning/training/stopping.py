"""Where a training, a validation and a test stop at a signal, and Lightning's own way with signals turned off."""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L

from da_lightning.private.lightning import leave_signals_alone, started_processes
from da_lightning.stop_message import Progress
from da_lightning.stopping import attend, check, has_ranks, is_stopping
from da_lightning.training.module import AdaptationModule
from da_lightning.training.phases import Phase


class StopAtSignal(L.Callback):
    """Stops between two batches; an epoch whose last batch is done is saved first."""

    phase = Phase.SIGNALS

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
        self.progress.done = cast(AdaptationModule, pl_module).iterations_done
        if trainer.ckpt_path is not None:
            self.progress.saved = self.progress.done
        check()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._look()
        check()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any) -> None:
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


def take_signals_from(trainer: L.Trainer) -> None:
    """Leave signals to :mod:`da_lightning.stopping` alone."""
    leave_signals_alone(trainer, is_stopping)
    has_ranks(lambda: started_processes(trainer))
