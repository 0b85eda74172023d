"""Averaged weights: what they are, and that tests, labels, checkpoints, resumes and predictions take them."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from tiny_runs import assert_same, assert_same_training, built, composed, tiny, trainer
from torchvision.io import ImageReadMode, decode_image

from da_lightning.config.build import build
from da_lightning.errors import CheckpointError, UserError
from da_lightning.predict import load_method
from da_lightning.session import train_and_test
from da_lightning.training.ema import AveragedWeights
from da_lightning.training.module import AdaptationModule

pytestmark = pytest.mark.slow

State = dict[str, torch.Tensor]


class Watch(L.Callback):
    """Keeps the players' own weights after each iteration."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.states.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})


def average(states: list[State], decay: float) -> State:
    """By the definition, from one iteration to the next."""
    result = {name: value.double() for name, value in states[0].items()}
    for n, state in enumerate(states[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        result = {name: d * result[name] + (1 - d) * value for name, value in state.items()}
    return result


@dataclass
class Trained:
    method: str
    module: AdaptationModule
    data: L.LightningDataModule
    fit: L.Trainer
    folder: Path
    watch: Watch = field(default_factory=Watch)

    def checkpoint(self, name: str) -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module", params=["self_training", "cyclegan", "reid_source_only"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, watch = tmp_path_factory.mktemp(request.param), Watch()
    fit = trainer(folder, AveragedWeights(decay=0.3), watch)
    run = Trained(request.param, *built(request.param, "data.flip=false"), fit, folder, watch)
    fit.fit(run.module, run.data)
    return run


def test_it_is_the_average_over_iterations_however_many_players_step(trained: Trained) -> None:
    states = trained.watch.states
    assert len(states) == 6
    expected, own = average(states, 0.3), dict(trained.module.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(own[name].double(), value, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(own[name], states[-1][name]) for name in own)


def test_checkpoints_hold_the_average_and_beside_it_what_goes_on(trained: Trained) -> None:
    last = trained.checkpoint("last")
    assert_same(dict(last["state_dict"]), dict(trained.module.state_dict()))
    for name, value in trained.watch.states[-1].items():
        assert torch.equal(last["current_model_state"][name], value)


def test_tests_and_predictions_take_the_average(trained: Trained) -> None:
    file = trained.folder / "checkpoints" / "last.ckpt"
    scores = trained.fit.test(trained.module, trained.data, verbose=False)[0]
    assert trained.fit.test(trained.module, trained.data, ckpt_path=file, verbose=False)[0] == scores
    assert_same(dict(load_method(file).state_dict()), dict(trained.checkpoint("last")["state_dict"]))


def test_resumed_it_goes_on_bit_for_bit(trained: Trained, tmp_path: Path) -> None:
    first, *_, last = sorted((trained.folder / "checkpoints").glob("epoch=*.ckpt"))
    module, data = built(trained.method, "data.flip=false", seed=1)
    trainer(tmp_path, AveragedWeights(decay=0.3)).fit(module, data, ckpt_path=first, weights_only=True)
    own = tmp_path / "checkpoints" / last.name
    assert_same_training(own, last)
    one, other = (torch.load(file, weights_only=True) for file in (own, last))
    for part in ("current_model_state", "averaging_state"):
        assert_same(one[part], other[part], part)


def test_self_training_begins_from_the_average_and_labels_with_it(trained: Trained) -> None:
    if trained.method != "self_training":
        pytest.skip("no pseudo labels")
    before = trained.checkpoint("source_only")["state_dict"]
    for name, value in average(trained.watch.states[:2], 0.3).items():
        torch.testing.assert_close(before[name].double(), value, rtol=1e-4, atol=1e-6)
    (first,) = (trained.folder / "checkpoints").glob("epoch=0.ckpt")
    module, view = load_method(first).eval(), trained.data.target_view
    for index in range(len(view)):
        image = view.plain(index)[0][None].float() / 255
        with torch.no_grad():
            both = [module(image).softmax(1), module(image.flip(-1)).softmax(1).flip(-1)]
        file = view.pseudo_label_file(index, trained.folder / "pseudo_labels" / "round_1")
        label = decode_image(str(file), ImageReadMode.UNCHANGED)[0]
        chosen = label != 255
        assert torch.equal(torch.stack(both).mean(0).argmax(1)[0][chosen], label[chosen].long())


def test_one_option_adds_it_and_a_run_goes_on_with_it_alone(tmp_path: Path) -> None:
    options = ["method=segmentation_source_only", *tiny("segmentation_source_only"), "callbacks.pictures=null"]
    cfg = composed(*options, "callbacks=ema")
    assert isinstance(build(cfg.callbacks.ema, "callbacks.ema"), AveragedWeights)
    try:
        train_and_test(cfg, tmp_path, "segmentation_source_only", "toy_streets")
        last = tmp_path / "checkpoints" / "last.ckpt"
        assert "current_model_state" in torch.load(last, weights_only=True)
        with pytest.raises(CheckpointError, match="callbacks=ema"):
            train_and_test(composed(*options, f"ckpt_path={last}"), tmp_path / "other", "segmentation_source_only", "")
    finally:
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision("highest")


def test_a_decay_of_one_would_never_learn() -> None:
    cfg = composed("method=segmentation_source_only", "callbacks=ema", "callbacks.ema.decay=1")
    with pytest.raises(UserError, match=r"callbacks\.ema\.decay=1 was refused: input should be less than 1"):
        build(cfg.callbacks.ema, "callbacks.ema")


@pytest.mark.usefixtures("_settings_restored")
def test_what_writes_files_at_the_end_has_the_average_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_runs")
    # A method's own callbacks are composed before those that the command chooses.
    cfg = composed("method=segmentation_source_only", *tiny("segmentation_source_only"), "callbacks=ema")
    cfg.callbacks = {"writer": {"_target_": "tiny_runs.WriteChecksum"}, **cfg.callbacks}
    train_and_test(cfg, tmp_path, "segmentation_source_only", "toy_streets")
    averaged = load_method(tmp_path / "checkpoints" / "last.ckpt")
    content = b"".join(p.detach().contiguous().numpy().tobytes() for p in averaged.parameters())
    written = json.loads((tmp_path / "rank_0.json").read_text())
    assert written["parameters"] == hashlib.sha256(content).hexdigest()
