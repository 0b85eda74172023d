"""What is refused before anything is built or any stage runs, each in a sentence."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny_runs import command, composed, tiny

from da_lightning import stages
from da_lightning.config.build import build
from da_lightning.errors import UserError
from da_lightning.preflight import check_built, check_configuration
from da_lightning.stages import train_in_stages
from da_lightning.training import trainer_options

WHOLE = "a share between 0.0 and 1.0, or a whole number of batches"
TRAINER = {
    "limit_train_batches=0": "leaves nothing to train on",
    "limit_train_batches=0.0": "leaves nothing to train on",
    "limit_train_batches=-1": WHOLE,
    "limit_train_batches=-0.5": WHOLE,
    "limit_train_batches=1.5": WHOLE,
    "limit_train_batches=.nan": WHOLE,
    "limit_train_batches=.inf": WHOLE,
    "limit_train_batches=true": WHOLE,
    "limit_train_batches=many": WHOLE,
    "limit_test_batches=0": "leaves nothing to test: give test=false",
    "limit_test_batches=0.0": "leaves nothing to test: give test=false",
    "limit_test_batches=-2": WHOLE,
    "limit_val_batches=-1": WHOLE,
    "limit_val_batches=2.5": WHOLE,
    "overfit_batches=2": "debug=overfit",
    "overfit_batches=0.1": "debug=overfit",
    "fast_dev_run=true": "debug=fast",
    "fast_dev_run=3": "debug=fast",
    "log_every_n_steps=-1": "a whole number from 0 on",
    "log_every_n_steps=abc": "a whole number from 0 on",
    "accumulate_grad_batches=2": "method.accumulate",
    "gradient_clip_val=1.0": "method.clip_norm",
    "gradient_clip_algorithm=norm": "method.clip_norm",
    "check_val_every_n_epoch=0": "a whole number from 1 on",
    "num_sanity_val_steps=-2": "a whole number from -1 on",
    "num_nodes=0": "a whole number from 1 on",
    "num_nodes=1.5": "a whole number from 1 on",
    "devices=0": "names no devices",
    "devices=-2": "names no devices",
    "devices=[]": "names no devices",
    "devices=abc": "names no devices",
    "devices=null": "names no devices",
    "max_epochs=5": "method.max_iters",
    "min_epochs=5": "method.max_iters",
    "max_steps=5": "method.max_iters",
    "max_steps=0": "method.max_iters",
    "min_steps=5": "method.max_iters",
    "max_time=soon": "trainer: ",
    "strategy=nonsense": "is none that these methods run under",
    "strategy=fsdp": "is none that these methods run under",
    "strategy=deepspeed_stage_2": "is none that these methods run under",
    "strategy=ddp_spawn": "is none that these methods run under",
    "strategy=ddp_notebook": "is none that these methods run under",
    "strategy=xla": "is none that these methods run under",
    "accelerator=nonsense": "trainer",
    "accelerator=tpu": "trainer",
    "accelerator=null": "trainer",
    "precision=nonsense": "trainer",
    "precision=8": "trainer",
    "profiler=nonsense": "trainer: ",
    "barebones=true": "has no effect here",
    "enable_checkpointing=false": "callbacks.checkpoint=null",
    "reload_dataloaders_every_n_epochs=1": "has no effect here",
    "use_distributed_sampler=true": "has no effect here",
    "limit_predict_batches=1": "da_lightning.predict",
    "sync_batchnorm=true": "needs GPUs",
    "logger=true": "logger=csv",
    "callbacks=[]": "+callbacks.mine",
    "default_root_dir=/tmp": "hydra.run.dir",
    "model_registry=mine": "has no effect here",
    "deterministic=maybe": "trainer.deterministic='maybe' was refused",
    "nonsense=1": "trainer.nonsense is not an option",
}
OTHERS = {
    "seed=-1": "a whole number from 0 to 4294967295",
    "seed=4294967296": "a whole number from 0 to 4294967295",
    "seed=1.5": "a whole number from 0 to 4294967295",
    "seed=abc": "a whole number from 0 to 4294967295",
    "seed=null": "a whole number from 0 to 4294967295",
    "seed=true": "a whole number from 0 to 4294967295",
    "seed=[1]": "a whole number from 0 to 4294967295",
    "test=maybe": "test=true or test=false",
    "test=0": "test=true or test=false",
}


@pytest.mark.parametrize("option", [*(f"trainer.{option}" for option in TRAINER), *OTHERS])
def test_refused_in_a_sentence(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cfg = composed()
    key, _, value = option.partition("=")
    OmegaConf.update(cfg, key, OmegaConf.from_dotlist([f"x={value}"]).x, force_add=True)
    with pytest.raises(UserError) as caught:
        check_configuration(cfg)
    message = str(caught.value)
    assert (TRAINER | OTHERS)[option.removeprefix("trainer.")] in message
    assert key.partition(".")[0] in message and "\n" not in message


@pytest.mark.parametrize(
    "option",
    [
        "trainer.limit_train_batches=1", "trainer.limit_train_batches=2.0", "trainer.limit_train_batches=0.5",
        "trainer.limit_val_batches=0", "trainer.log_every_n_steps=0", "trainer.devices=4", "trainer.devices='2'",
        "trainer.precision=bf16-mixed", "trainer.precision=64-true", "trainer.strategy=ddp",
        "trainer.num_sanity_val_steps=-1", "+trainer.max_time=00:01:00:00", "+trainer.detect_anomaly=true",
        "trainer.profiler=simple", "trainer.deterministic=true", "+trainer.val_check_interval=1.0", "seed=4294967295",
        "seed=0", "test=false trainer.limit_test_batches=0", "trainer.num_nodes=2",
    ],
)  # fmt: skip
def test_taken(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    try:
        check_configuration(composed("trainer=cpu", *option.split()))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["auto", "cpu", "ddp", "multi_node", "gpu"])
def test_the_presets_are_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    accelerator = "" if name in ("auto", "cpu", "ddp") else "trainer.accelerator=cpu"
    cfg = composed(f"trainer={name}", *filter(None, [accelerator]))
    check_configuration(cfg)


# -- with the data -----------------------------------------------------------------------------------------------------

SOURCE_ONLY = tiny("segmentation_source_only")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("trainer.limit_train_batches=0.4", "trainer.limit_train_batches=0.4 of an epoch"),
        ("trainer.limit_test_batches=0.4", "trainer.limit_test_batches=0.4 of the set target"),
        ("+trainer.val_check_interval=3", "is not within an epoch, which has 2 batches"),
        ("+trainer.val_check_interval=0.1", "is not within an epoch, which has 2 batches"),
        ("trainer.limit_train_batches=0.5", None),
        ("trainer.limit_test_batches=0.5", None),
        ("test=false trainer.limit_test_batches=0.1", None),
        ("+trainer.val_check_interval=2", None),
    ],
)
def test_shares_of_less_than_a_batch(option: str, complaint: str | None) -> None:
    cfg = composed("method=segmentation_source_only", *SOURCE_ONLY, *option.split())
    data, module = build(cfg.data, "data"), build(cfg.method, "method")
    check_configuration(cfg)
    if complaint is None:
        check_built(cfg, data, module)
        return
    with pytest.raises(UserError) as caught:
        check_built(cfg, data, module)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("data.seed", -1), ("method.seed", 2**32), ("method.seed", "abc"), ("data.seed", 1.5),
     ("data.source.first_seed", -5)]
)  # fmt: skip
def test_seeds_of_parts(key: str, value: Any) -> None:
    cfg = composed("method=segmentation_source_only", *SOURCE_ONLY, f"{key}={value}")
    section = key.partition(".")[0]
    with pytest.raises(UserError, match=rf"^{key}=.* was refused"):
        build(cfg[section], section)


# -- stages ------------------------------------------------------------------------------------------------------------

MALFORMED = {
    "stages=null": "stages=None names no stages",
    "stages=[1]": "names no stages",
    "stages.translator=null": "stages.translator=None is no stage: give stages.translator.needed=false",
    "stages.translator=5": "is no stage",
    "stages.translator=[]": "is no stage",
    "+stages.other={}": "stages.other.needed=None says neither yes nor no",
    "stages.translator.needed=maybe": "says neither yes nor no",
    "stages.translator.needed=null": "says neither yes nor no",
    "stages.translator.provides=null": "does not say what the stage is for",
    "stages.translator.provides={}": "does not say what the stage is for",
    "stages.translator.provides.data.translated=null": "does not say what the stage is for",
    "+stages.translator.each=5": "builds no parts",
    "stages.translator.method=null": "stages.translator.method is no method",
    "stages.translator.data=null": "stages.translator.data is no data",
    "stages.translator.data=5": "stages.translator.data is no data",
    "+stages.translator.methodd={a: 1}": "stages.translator.methodd is no part of a run",
    "+stages.translator.trainer.limit_train_batches=0": "leaves nothing to train on",
    "+stages.translator.seed=-1": "seed=-1 is no seed",
}


@pytest.mark.parametrize("option", MALFORMED)
def test_malformed_stages(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "train_and_test", lambda *_: pytest.fail("a training has begun"))
    cfg = composed("method=spgan", *tiny("spgan"))
    key, _, value = option.lstrip("+").partition("=")
    parsed = OmegaConf.create(f"x: {value}").x
    if key == "stages.translator.provides.data.translated":
        cfg.stages.translator.provides = {"data.translated": None}
    elif isinstance(parsed, dict | list) or OmegaConf.is_config(parsed) or parsed is None or option[0] != "+":
        OmegaConf.update(cfg, key, parsed, merge=False, force_add=True)
    else:
        OmegaConf.update(cfg, key, parsed, force_add=True)
    with pytest.raises(UserError) as caught:
        train_in_stages(cfg, Path("run"), "spgan", "toy_people")
    assert MALFORMED[option] in str(caught.value)


# -- bfloat16 ----------------------------------------------------------------------------------------------------------


class Trainer:
    class strategy:
        root_device = torch.device("cpu")

    def __init__(self, precision: str, is_global_zero: bool = True) -> None:
        self.precision, self.is_global_zero = precision, is_global_zero


@pytest.mark.parametrize(
    ("native", "precision", "is_first", "count"),
    [
        (False, "bf16-mixed", True, 1),
        (False, "bf16-true", True, 1),
        (False, "bf16-mixed", False, 0),
        (True, "bf16-mixed", True, 0),
        (False, "32-true", True, 0),
    ],
)
def test_one_warning_says_that_bfloat16_is_emulated(
    native: bool, precision: str, is_first: bool, count: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer_options, "has_bfloat16", lambda: native)
    monkeypatch.setattr(trainer_options, "_is_said", False)
    for _ in range(2):  # of a stage, and of the method
        trainer_options.warn_of_emulated_bfloat16(Trainer(precision, is_first))  # type: ignore[arg-type]
    assert sum("many times slower than 32-true" in record.message for record in caplog.records) == count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(trainer_options.has_bfloat16(), bool)


@pytest.mark.slow
def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    run = command(["method=spgan", *tiny("spgan"), "trainer.limit_test_batches=0"], tmp_path)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "error: trainer.limit_test_batches=0 leaves nothing to test" in run.stderr
    assert not list(tmp_path.rglob("checkpoints"))
