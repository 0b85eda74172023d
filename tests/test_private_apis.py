"""What we use of other packages beyond their promises: each test says what is broken when a new version moves it."""

import inspect
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra._internal.utils
import hydra.core.utils
import lightning.pytorch as L
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import OmegaConf

from da_lightning.config import logs, recipes
from da_lightning.private import hydra as of_hydra
from da_lightning.private import joblib as of_joblib
from da_lightning.private import lightning as of_lightning

# -- Hydra -------------------------------------------------------------------------------------------------------------


def test_hydra_reads_a_command_line() -> None:
    given = of_hydra.command_line(["-m", "--config-name", "x", "seed=1,2"])
    assert given.multirun and given.overrides == ["seed=1,2"], (
        "hydra._internal.utils.get_args_parser: resume=auto, --experimental-rerun and old sweeps are not recognised"
    )
    assert hasattr(given, "experimental_rerun"), "a pickle of --experimental-rerun would be read without a refusal"


def test_hydra_tells_a_sweeps_jobs_before_it_begins() -> None:
    jobs = of_hydra.sweep_jobs(OverridesParser.create().parse_overrides(["seed=1,2", "x=3"]))
    assert jobs == [["seed=1", "x=3"], ["seed=2", "x=3"]], (
        "BasicSweeper.split_arguments: sweeps have no plan, and jobs with other numbers of processes are not refused"
    )


@pytest.mark.parametrize("place", of_hydra.LOADING, ids=lambda place: place[1])
def test_hydra_loads_configurations_by_functions_that_can_be_watched(place: tuple[type, str]) -> None:
    recipes.watch()
    kind, name = place
    assert hasattr(getattr(kind, name), "__wrapped__"), (
        f"{kind.__name__}.{name} is not watched: a stranger's configuration can run code, change the environment and "
        "write outside of the working folder"
    )


def test_the_arguments_of_hydras_loading_functions_are_those_that_are_looked_at() -> None:
    taken = [list(inspect.signature(inspect.unwrap(getattr(*place))).parameters) for place in of_hydra.LOADING]
    file, default, whole = taken
    assert file == ["self", "config_path"], "the names of configurations outside of their folder are not refused"
    assert default == ["self", "default", "repo"], "what a recipe puts under hydra is not refused"
    assert whole[:3] == ["self", "config_name", "overrides"], "paths typed on the command line are not allowed"


def test_hydra_records_configurations_by_a_function_that_can_be_replaced(tmp_path: Path) -> None:
    of_hydra.record_by(logs.save_whole)
    assert "_save_config(" in inspect.getsource(hydra.core.utils.run_job), (
        "hydra.core.utils._save_config: a full disk leaves half a file in .hydra, which resume=auto cannot read"
    )
    hydra.core.utils._save_config(OmegaConf.create({"a": 1}), "x.yaml", tmp_path)
    assert (tmp_path / "x.yaml").read_text() == "a: 1\n"


def test_hydra_runs_everything_in_a_function_that_can_be_replaced() -> None:
    assert "run_and_report(" in inspect.getsource(hydra._internal.utils._run_app), (
        "hydra._internal.utils.run_and_report: a run folder that cannot be made is a traceback"
    )
    assert hydra._internal.utils.run_and_report(lambda: 7) == 7


def test_what_is_used_of_hydra_imports_nothing_heavy() -> None:
    code = "import sys, da_lightning.private.hydra; print(*{name.partition('.')[0] for name in sys.modules})"
    root = str(Path(of_hydra.__file__).parents[2])
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "hydra" in loaded and not {"torch", "lightning"} & set(loaded), "--help takes seconds"


# -- joblib ------------------------------------------------------------------------------------------------------------


def test_joblib_has_a_list_of_its_workers() -> None:
    joblib = pytest.importorskip("joblib")
    joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(2))
    assert of_joblib.worker_pids(), (
        "joblib.externals.loky.reusable_executor._executor._processes: a signal does not reach the jobs of a sweep"
    )
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


# -- Lightning: counters -----------------------------------------------------------------------------------------------


def a_trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    defaults: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 3, "logger": False}
    return L.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **defaults | options,
    )


class Counts(L.Callback):
    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.done: list[tuple[int, int]] = []
        self.begun: list[int] = []
        self.at_start: tuple[int, int] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.at_start = of_lightning.batch_number(trainer), of_lightning.batches_done(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.numbers.append(of_lightning.batch_number(trainer))
        self.before = of_lightning.batches_done(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        self.done.append((self.before, of_lightning.batches_done(trainer)))
        self.begun.append(of_lightning.batches_begun_in_epoch(trainer))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, Counts, Path]:
    folder, counts = tmp_path_factory.mktemp("trained"), Counts()
    trainer = a_trainer(folder, counts, ModelCheckpoint(folder, filename="last"))
    trainer.fit(BoringModel())
    return trainer, counts, folder / "last.ckpt"


def test_lightning_counts_batches_over_epochs(trained: tuple[L.Trainer, Counts, Path]) -> None:
    _, counts, _ = trained
    assert counts.at_start == (-1, 0) and counts.numbers == list(range(6)), (
        "fit_loop.total_batch_idx: schedules, seeds of steps and phases of methods go by another iteration"
    )
    assert counts.begun == [1, 2, 3] * 2, (
        "batch_progress.current.ready: a training that goes on from inside an epoch ends at another iteration"
    )


def test_lightning_counts_the_batches_that_are_done(trained: tuple[L.Trainer, Counts, Path]) -> None:
    trainer, counts, _ = trained
    assert counts.done == [(i, i + 1) for i in range(6)] and of_lightning.batches_done(trainer) == 6, (
        "batch_progress.total.processed: rounds begin, trainings end and checkpoints are named at another iteration"
    )


def test_a_checkpoint_says_how_many_batches_were_done(trained: tuple[L.Trainer, Counts, Path], tmp_path: Path) -> None:
    checkpoint = trained[2]
    assert of_lightning.batches_in(torch.load(checkpoint, weights_only=True)) == 6, (
        'checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]: no training can be resumed'
    )
    counts = Counts()
    a_trainer(tmp_path, counts, max_epochs=3).fit(BoringModel(), ckpt_path=checkpoint, weights_only=True)
    assert counts.at_start == (-1, 6), "_loaded_checkpoint: iterations_done is 0 until a resumed training begins"
    assert counts.numbers == [6, 7, 8]


def test_lightning_lets_a_trainings_length_be_changed(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path, max_epochs=-1)
    of_lightning.set_max_epochs(trainer, 1)
    trainer.fit(BoringModel())
    assert of_lightning.batches_done(trainer) == 3, "fit_loop.max_epochs: the progress bar shows Epoch 3/-2"


def test_a_module_knows_whether_it_has_a_trainer(trained: tuple[L.Trainer, Counts, Path]) -> None:
    assert of_lightning.trainer_of(BoringModel()) is None, "LightningModule._trainer: prediction needs a trainer"
    assert of_lightning.trainer_of(trained[0].lightning_module) is trained[0]


def test_a_module_has_two_copies_of_its_options() -> None:
    class Method(L.LightningModule):
        def __init__(self, file: str) -> None:
            super().__init__()
            self.save_hyperparameters()

    copies = of_lightning.hyperparameters_of(Method("secret"))
    assert [copy["file"] for copy in copies] == ["secret"] * 2, (
        "_hparams_initial: loggers are given values of environment variables"
    )
    assert copies[0] is not copies[1]


# -- Lightning: processes, signals, checkpoints ------------------------------------------------------------------------


def test_a_trainer_says_whether_it_divides_the_data(tmp_path: Path) -> None:
    assert not of_lightning.divides_data(None)
    told = [of_lightning.divides_data(a_trainer(tmp_path, use_distributed_sampler=is_on)) for is_on in (True, False)]
    assert told == [True, False], "_accelerator_connector: ranks would train on a part of their part, without a word"


def test_the_processes_that_lightning_starts_are_known() -> None:
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = _SubprocessScriptLauncher(SimpleNamespace(creates_processes_externally=False), 2, 1)  # type: ignore[arg-type]
    strategy = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    launcher.procs.append(process := object())  # type: ignore[arg-type]
    assert list(of_lightning.started_processes(strategy)) == [process], (  # type: ignore[arg-type]
        "launcher.procs: a signal does not reach the other ranks, which are left behind"
    )


def test_lightnings_handlers_of_signals_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    observer = of_lightning._ChildProcessObserver
    assert callable(of_lightning._terminate_all) and "_terminate_all(" in inspect.getsource(observer), (
        "_ChildProcessObserver._terminate_all: one rank that ends at a signal has all others killed in their last words"
    )
    monkeypatch.setattr(observer, "_terminate_all", observer._terminate_all)  # to be put back
    monkeypatch.setattr(of_lightning, "_terminate_all", killed.append)
    trainer, stopping = a_trainer(tmp_path), [True]
    source = inspect.getsource(type(trainer))
    assert "_signal_connector.register_signal_handlers()" in source, (
        "_signal_connector.register_signal_handlers: Lightning saves in the middle of an epoch at a signal"
    )
    of_lightning.leave_signals_alone(trainer, lambda: stopping[0])
    assert trainer._signal_connector.register_signal_handlers() is None
    instance = observer.__new__(observer)
    instance._terminate_all()
    assert not killed, "processes are killed while they stop"
    stopping[0] = False
    instance._terminate_all()
    assert killed == [instance], "where one rank has failed, the others wait for it for ever"


def test_lightning_loads_the_checkpoint_that_it_is_given(
    trained: tuple[L.Trainer, Counts, Path], tmp_path: Path
) -> None:
    guarded: list[Any] = []

    def guard(path: Any) -> Any:
        guarded.append(path)
        return nullcontext()

    trainer = a_trainer(tmp_path, max_epochs=3, plugins=[SLURMEnvironment(auto_requeue=True)])
    of_lightning.load_as_given(trainer, guard)
    trainer.fit(BoringModel(), ckpt_path=trained[2], weights_only=True)
    assert trainer.ckpt_path == trained[2], "_parse_ckpt_path: another file that lies there can be loaded"
    assert guarded == [trained[2]] * 2, (
        "_CheckpointConnector._restore_modules_and_callbacks, restore_training_state: "
        "a checkpoint that does not fit is a traceback"
    )
    connector: Any = trainer._accelerator_connector
    assert not connector.cluster_environment.auto_requeue, "SLURM would begin the job again at a signal"
    trainer.test(BoringModel(), verbose=False)  # not the "best", of which there is none


def test_optimisers_of_another_number_are_refused(trained: tuple[L.Trainer, Counts, Path], tmp_path: Path) -> None:
    class Two(BoringModel):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    trainer = a_trainer(tmp_path)
    of_lightning.load_as_given(trainer, nullcontext)
    with pytest.raises(ValueError, match="1 optimisers and this training 2"):
        trainer.fit(Two(), ckpt_path=trained[2], weights_only=True)


def test_a_plugin_that_wraps_another_writes_through_ours() -> None:
    io, outer = TorchCheckpointIO(), AsyncCheckpointIO()
    assert of_lightning.write_through(outer, io) and outer.checkpoint_io is io
    assert not of_lightning.write_through(AsyncCheckpointIO(TorchCheckpointIO()), io)
    assert not of_lightning.write_through(TorchCheckpointIO(), io)
    SingleDeviceStrategy(checkpoint_io=outer)
    assert outer.checkpoint_io is io, (
        "_WrappingCheckpointIO: the strategy puts torch's own there, and a full disk costs the last checkpoint"
    )


# -- Lightning: averages, loggers --------------------------------------------------------------------------------------


def test_an_average_is_made_dropped_and_swapped(trained: tuple[L.Trainer, Counts, Path]) -> None:
    callback, module = WeightAveraging(), BoringModel()
    assert of_lightning.average_of(callback) is None
    callback.setup(trained[0], module, "fit")
    average = of_lightning.average_of(callback)
    assert average is not None, "WeightAveraging._average_model: callbacks=ema fails when training begins"
    of_lightning.drop_average(callback)
    assert of_lightning.average_of(callback) is None
    callback.setup(trained[0], module, "fit")
    before = module.layer.weight.detach().clone()
    with torch.no_grad():
        module.layer.weight += 1
    of_lightning.swap_average(callback, module)
    assert torch.equal(module.layer.weight, before), "_swap_models: the last weights pass for the average"


def test_an_experiment_that_does_nothing_takes_any_call() -> None:
    of_lightning.NoExperiment().log_image("x", 1)  # a logger that has failed would end the training


def test_a_logger_keeps_its_experiment(tmp_path: Path) -> None:
    for logger in (CSVLogger(tmp_path), WandbLogger(mode="offline", save_dir=tmp_path)):
        assert of_lightning.opened(logger) is None, "_experiment: metrics.csv and W&B are opened twice"
    logger = CSVLogger(tmp_path)
    assert of_lightning.open_as(logger, mine := object()) is mine
    assert logger.experiment is mine, "_experiment: a full disk ends the run, since Lightning's own writer is used"


def test_the_options_of_wandb_can_be_changed(tmp_path: Path) -> None:
    options = of_lightning.wandb_options(WandbLogger(mode="offline", save_dir=tmp_path, project="mine"))
    assert options["project"] == "mine" and options["mode"] == "offline", "_wandb_init: no run of W&B begins"
    assert "anonymous" in options, "W&B has no option left to warn of: take out what removes it"


def test_the_checkpoints_that_become_artifacts_can_be_chosen(tmp_path: Path) -> None:
    logger = WandbLogger(mode="offline", save_dir=tmp_path)
    assert of_lightning.artifacts_of(logger) == {}
    logger.after_save_checkpoint(callback := ModelCheckpoint(tmp_path))
    if not of_lightning.artifacts_of(logger):  # it keeps them where they are logged at the end
        logger = WandbLogger(save_dir=tmp_path, log_model=True, mode=None)
        logger.after_save_checkpoint(callback)
    assert list(of_lightning.artifacts_of(logger).values()) == [callback], (
        "_checkpoint_callbacks: where weights are selected, the last ones pass for the best in W&B"
    )
    of_lightning.set_artifacts(logger, {})
    assert of_lightning.artifacts_of(logger) == {}
