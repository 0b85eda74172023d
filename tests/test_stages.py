"""Methods of several trainings: what each stage is given, what it leaves, and that it is done once."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from tiny_runs import command, composed, run_folders, succeeded, tiny

from da_lightning import stages
from da_lightning.config import CONF_DIR
from da_lightning.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DictConfig, Path, str]]:
    """What would have been trained: configuration, folder and name of each."""
    begun: list[tuple[DictConfig, Path, str]] = []

    def record(cfg: DictConfig, run_dir: Path, method: str, data_name: str) -> float:
        begun.append((cfg, run_dir, method))
        return 0.25

    monkeypatch.setattr(stages, "train_and_test", record)
    return begun


def started(*overrides: str) -> Any:
    return stages.train_in_stages(composed(*overrides), Path("run"), "mine", "data")


@pytest.mark.parametrize(
    ("experiment", "stage"), [("ecn_market2duke", "camera_style"), ("spgan_market2duke", "translator")]
)
def test_a_paper_recipe_says_all_that_our_stage_changed(experiment: str, stage: str) -> None:
    ours = OmegaConf.load(CONF_DIR / "stages" / f"{stage}.yaml").method
    official = OmegaConf.load(CONF_DIR / "experiment" / "base" / f"{experiment.split('_')[0]}_official.yaml")
    of_a_unet = {"halvings"} - set(official.stages[stage].method)
    assert set(ours) - of_a_unet <= set(official.stages[stage].method)


def test_a_stage_comes_first_and_fills_the_option_that_it_provides(runs: list) -> None:
    changes = ("stages.translator.method.max_iters=7", "ckpt_path=of_the_method.ckpt")
    assert started("method=spgan", *changes) == 0.25
    (translator, folder, name), (method, own_folder, own_name) = runs
    assert (folder, name) == (Path("run/translator"), "mine/translator")
    assert translator.method._target_.endswith("SPGAN")
    assert translator.method.max_iters == 7
    assert translator.data.source._target_ == method.data.source._target_
    assert translator.ckpt_path is None
    assert {"stop", "checkpoint", "translate"} <= set(translator.callbacks)
    assert (own_folder, own_name) == (Path("run"), "mine")
    assert method.method._target_.endswith("ReidSourceOnly")
    assert method.data.translated == "run/translator/translated"
    assert method.ckpt_path == "of_the_method.ckpt"
    assert "translate" not in method.callbacks


def test_a_stage_of_pairs_of_cameras_is_a_run_for_each_and_one_folder(runs: list) -> None:
    started("method=ecn", "stages.camera_style.method.max_iters=7")
    (*pairs, (method, own_folder, own_name)) = runs
    names = ["1to2", "1to3", "1to4", "2to3", "2to4", "3to4"]
    assert [folder for _, folder, _ in pairs] == [Path(f"run/camera_style_{name}") for name in names]
    assert [name for _, _, name in pairs] == [f"mine/camera_style_{name}" for name in names]
    for (cfg, _, _), name in zip(pairs, names, strict=True):
        assert cfg.data.cameras == [int(camera) for camera in name.split("to")]
        assert cfg.method._target_.endswith("CycleGAN") and cfg.method.max_iters == 7
        assert cfg.callbacks.write.folder == method.data.camera_style == "run/camera_style/camera_style"
    assert (own_folder, own_name) == (Path("run"), "mine")
    assert method.method._target_.endswith("ECN")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method=spgan", "method.head=nonsense"), "method.head='nonsense' was refused"),
        (("method=ecn", "method.alpha_step=0.5"), "method.alpha_step=0.5 would stop the memory"),
        (("method=ecn", "+trainer.limit_train_batches=1"), "epochs of 1 iterations"),
        (("method=spgan", "method.optimizer.lr=-1"), "learning rate of at least 0"),
        (("method=ecn", "data=person_folders", "data.source.root=nowhere", "data.target.root=."), "nowhere"),
    ],
)
def test_what_is_wrong_with_the_method_does_not_wait_for_its_stages(
    overrides: tuple[str, ...], message: str, runs: list
) -> None:
    with pytest.raises(UserError, match=message):
        started(*overrides)
    assert not runs


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=spgan", "data.translated=earlier"),
        ("method=ecn", "data.camera_style=earlier"),
        ("method=ecn", "method.camera=false"),
        ("method=cbst",),
    ],
)
def test_what_is_given_or_not_needed_is_not_made(overrides: tuple[str, ...], runs: list) -> None:
    started(*overrides)
    assert [folder for _, folder, _ in runs] == [Path("run")]


def test_a_run_that_goes_on_takes_the_stages_that_it_had(runs: list, tmp_path: Path) -> None:
    (tmp_path / "translator" / "translated").mkdir(parents=True)
    started("method=spgan", f"ckpt_path={tmp_path}/checkpoints/last.ckpt")
    (method, folder, _), *_ = runs
    assert [run for _, run, _ in runs] == [Path("run")]
    assert method.data.translated == str(tmp_path / "translator" / "translated")


def test_ecn_learns_the_style_of_each_pair_of_cameras_first(tmp_path: Path) -> None:
    cameras = [f"data.{part}.cameras=3" for part in ("source", "target")]
    succeeded(command(["method=ecn", *tiny("ecn"), *cameras], tmp_path))
    (run,) = run_folders(tmp_path)
    assert (run / "pictures" / "camera_styles.png").is_file()
    assert sorted(p.name for p in run.glob("camera_style_*")) == [f"camera_style_{p}" for p in ("1to2", "1to3", "2to3")]
    routes = [file.stem.split("_fake_")[1] for file in (run / "camera_style" / "camera_style").glob("*.png")]
    # All images of a camera, through each of the two others.
    assert len(set(routes)) == 6
    for one, *others in ("123", "213", "312"):
        assert len({routes.count(f"{one}to{two}") for two in others}) == 1
