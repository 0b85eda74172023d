"""Teachers: the average, the mode, what is resumed, and what is tested."""

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import OmegaConf
from tiny_runs import assert_same, assert_same_training, command, composed, succeeded, tiny, trainer
from tiny_teachers import MeanTeacher, built_teacher
from torch import Tensor, nn
from torch.utils.data import DataLoader

from da_lightning.config.build import build
from da_lightning.data.source_target import SourceTargetDataModule
from da_lightning.errors import UserError
from da_lightning.export import write
from da_lightning.predict import load_method
from da_lightning.preflight import check_built
from da_lightning.reid.source_only import ReidSourceOnly
from da_lightning.segmentation.cbst import CBST
from da_lightning.segmentation.labelling import Labelling
from da_lightning.segmentation.source_only import SourceOnly
from da_lightning.session import train_and_test
from da_lightning.training.ema import AveragedWeights
from da_lightning.training.module import AdaptationModule
from da_lightning.training.players import Backward, Group, Player, Step, Term, Updates
from da_lightning.training.selection import Selection
from da_lightning.training.teacher import Teacher, build_teacher

# -- the average -------------------------------------------------------------------------------------------------------


def by_definition(weights: list[Tensor], decay: float, ramp: bool) -> Tensor:
    """Number ``t`` of ``weights`` is averaged in update ``t``; the first of all is what the teacher begins as."""
    average = weights[0].double()
    for t, weight in enumerate(weights[1:]):
        a = min(1 - 1 / (t + 1), decay) if ramp else decay
        average = a * average + (1 - a) * weight.double()
    return average


def followed(count: int, **options: Any) -> tuple[Teacher, list[Tensor]]:
    network = nn.Linear(5, 1, bias=False).double()
    draw = torch.Generator().manual_seed(1)
    teacher, weights = Teacher(network, **options), [network.weight.detach().clone()]
    for _ in range(count):
        network.weight.data.copy_(torch.randn(1, 5, generator=draw))
        weights.append(network.weight.detach().clone())
        teacher.follow(network)
    return teacher, weights


@pytest.mark.parametrize("count", [1, 2, 1001])
@pytest.mark.parametrize("ramp", [True, False])
def test_it_is_the_average_of_the_formula(ramp: bool, count: int) -> None:
    teacher, weights = followed(count, decay=0.999, ramp=ramp)
    torch.testing.assert_close(teacher.network.weight, by_definition(weights, 0.999, ramp), rtol=1e-12, atol=1e-14)
    assert teacher.updates == count


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_the_ramp_is_the_plain_mean(count: int) -> None:
    teacher, weights = followed(count, decay=0.999)
    torch.testing.assert_close(teacher.network.weight, torch.stack(weights[1:]).mean(0), rtol=1e-12, atol=1e-14)
    later, weights = followed(1001, decay=0.999)
    assert not torch.allclose(later.network.weight, torch.stack(weights[1:]).mean(0), rtol=1e-9)


def test_at_first_it_is_the_network_whatever_its_options() -> None:
    network = nn.Linear(5, 5)
    for options in ({"ramp": False}, {"update": "before"}, {"buffers": "copy"}):
        assert_same(dict(Teacher(network, **options).network.state_dict()), dict(network.state_dict()))
    assert not any(p.requires_grad for p in Teacher(network).parameters())


class Fitted(AdaptationModule):
    """A line with a teacher, and a second player without one, which steps in every second batch."""

    inf_at: int | None = None

    def __init__(self, teacher: dict[str, Any], **options: Any) -> None:
        super().__init__(**{"max_iters": 8, **options})
        torch.manual_seed(0)
        self.network, self.other = nn.Linear(3, 1), nn.Linear(3, 1)
        self.teacher = build_teacher(self.network, teacher)
        self.network.weight.register_hook(lambda g: g * float("inf") if self.iteration == self.inf_at else g)
        self.seen: list[Tensor] = []  # the teacher's weights in each batch

    def teachers(self) -> dict[str, Teacher]:
        return {"network": self.teacher}

    def players(self) -> dict[str, Player]:
        trained = [p for p in self.parameters() if p.requires_grad]
        assert len(trained) == 4  # none is the teacher's
        options = {"name": "SGD", "lr": 0.1}
        return {
            "network": Player([Group(trained[:2])], options),
            "other": Player([Group(trained[2:])], options),
        }

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        self.seen.append(self.teacher.network.weight.clone())
        if self.iteration % 2:
            yield Backward("other", {"square": Term(self.other(batch).square().mean())})
            yield Step("other")
        loss = (self.network(batch) - self.teacher(batch) - 1).square().mean()
        yield Backward("network", {"square": Term(loss)})
        yield Step("network")


class Weights(L.Callback):
    """The student's weights before training and after each batch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.seen.append(pl_module.network.weight.detach().clone())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(pl_module.network.weight.detach().clone())


def fit(module: AdaptationModule, folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    run = trainer(folder, *callbacks, **options)
    run.fit(module, DataLoader(list(torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(1))), batch_size=None))
    return run


def assert_average(found: Tensor, weights: list[Tensor], decay: float = 0.75, ramp: bool = True) -> None:
    torch.testing.assert_close(found.double(), by_definition(weights, decay, ramp), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ramp", [True, False])
def test_after_a_step_or_before_the_next_batch(ramp: bool, tmp_path: Path) -> None:
    options = {"decay": 0.75, "ramp": ramp}
    for update, first in (("after", 0), ("before", 1)):
        module, own = Fitted({**options, "update": update}), Weights()
        fit(module, tmp_path / update, own)
        # What has been averaged by batch ``t``: the weights after the steps before it, or the first ones besides.
        begun = [own.seen[0]] * first + own.seen
        for t, seen in enumerate(module.seen):
            assert_average(seen, begun[: t + 1 + first], ramp=ramp)
        assert module.teacher.updates == 8
        assert_average(module.teacher.network.weight, begun[:9], ramp=ramp)


@pytest.mark.parametrize("update", ["after", "before"])
def test_it_counts_steps_and_not_batches(update: str, tmp_path: Path) -> None:
    module, own = Fitted({"decay": 0.75, "update": update}, accumulate=3), Weights()
    fit(module, tmp_path, own)
    assert module.teacher.updates == 3  # of 3, 3 and 2 batches
    steps = [own.seen[0], own.seen[3], own.seen[6], own.seen[8]]
    assert_average(module.teacher.network.weight, steps if update == "after" else [steps[0], *steps[:3]])


def test_a_step_that_the_scaler_leaves_out_is_none(tmp_path: Path) -> None:
    module, own = Fitted({"decay": 0.75}), Weights()
    module.inf_at = 2
    scaler = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    fit(module, tmp_path, own, plugins=[scaler])
    assert torch.equal(own.seen[2], own.seen[3])
    assert module.teacher.updates == 7
    assert_average(module.teacher.network.weight, own.seen[:3] + own.seen[4:])


# -- mode, dropout, batch norm -----------------------------------------------------------------------------------------


class Small(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_labels_depend_on_no_seed_and_on_the_batch_as_norm_says(norm: str) -> None:
    network = Small()
    network.train()(3 * images() + 1)
    teacher = Teacher(network, norm=norm, buffers="copy")
    outputs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        outputs.append(teacher.train()(images()))
    assert torch.equal(*outputs)
    assert not outputs[0].requires_grad
    alone = torch.cat([teacher(image[None]) for image in images()])
    assert torch.allclose(alone, outputs[0], atol=1e-6) == (norm == "running")
    plain = Small()
    plain.load_state_dict(network.state_dict())
    plain.eval()[1].train(norm == "batch")
    assert torch.equal(plain(images()), outputs[0])


@pytest.mark.parametrize("buffers", ["own", "average", "copy"])
def test_statistics_are_its_own_or_the_students(buffers: str) -> None:
    network, plain = Small(), Small()
    teacher = Teacher(network, decay=0.75, ramp=False, buffers=buffers)
    network.train()(3 * images() + 1)
    teacher(images())
    plain.eval()[1].train()
    plain(images())
    first, own, student = Small()[1], plain[1], network[1]
    expected = {name: value.clone() for name, value in (own if buffers == "own" else first).named_buffers()}
    assert_same(dict(teacher.network[1].named_buffers()), expected)  # its passes are tracked where they are its own
    teacher.follow(network)
    if buffers != "own":
        weight = 0.75 if buffers == "average" else 0.0
        for name in ("running_mean", "running_var"):
            expected[name] = weight * expected[name] + (1 - weight) * student.get_buffer(name)
        expected["num_batches_tracked"] = student.num_batches_tracked
    torch.testing.assert_close(dict(teacher.network[1].named_buffers()), expected)


def test_norms_that_the_network_keeps_frozen_stay_frozen() -> None:
    class Frozen(Small):
        def train(self, mode: bool = True) -> "Frozen":
            super().train(mode)
            self[1].eval()
            return self

    teacher = Teacher(Frozen())
    first = dict(teacher.network.state_dict())
    assert torch.equal(teacher(images()), Frozen().eval()(images()))
    assert_same(dict(teacher.network.state_dict()), first)


class Modes(L.Callback):
    """Notes whether any part of the teachers is in train mode, whatever is going on, and that the student changes."""

    hooks: ClassVar = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_start",
        "on_validation_end",
        "on_test_start",
        "on_test_end",
    )

    def __init__(self) -> None:
        self.seen: dict[str, set[bool]] = {}
        for hook in self.hooks:
            setattr(self, hook, self._noting(hook))

    def _noting(self, hook: str) -> Any:
        def note(trainer: L.Trainer, module: Any, *_: Any) -> None:
            parts = [*module.teacher.modules(), *module.reference.modules()]
            assert not any(part.training for part in parts), hook
            self.seen.setdefault(hook, set()).add(module.network.training)

        return note


def test_lightning_does_not_change_its_mode(tmp_path: Path) -> None:
    module, data = built_teacher({"test_with": "teacher"}, "+data.validations.target=${data.tests.target}")
    modes = Modes()
    run = trainer(tmp_path, modes)
    run.fit(module, data)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run.test(module, data, verbose=False)
    assert_same(dict(module.state_dict()), before)  # a test changes no statistics
    assert set(modes.seen) == set(Modes.hooks)
    assert modes.seen["on_train_batch_start"] == {True} and modes.seen["on_test_start"] == {False}


# -- resuming, several processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"update": "before"}, {"buffers": "average", "decay": 0.5}])
def test_resumed_it_goes_on_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    module, data = built_teacher(options)
    trainer(tmp_path / "whole").fit(module, data)
    first, *_, last = sorted((tmp_path / "whole" / "checkpoints").glob("epoch=*.ckpt"))
    resumed, data = built_teacher(options, seed=1)
    trainer(tmp_path / "resumed").fit(resumed, data, ckpt_path=first, weights_only=True)
    assert_same_training(tmp_path / "resumed" / "checkpoints" / last.name, last)
    assert resumed.teacher.updates == module.teacher.updates == 6
    state = torch.load(last, weights_only=True)["state_dict"]
    assert any(not torch.equal(state[f"teacher.network.{n}"], p) for n, p in module.network.named_parameters())
    start, _ = built_teacher(options)
    assert_same(dict(resumed.reference.network.state_dict()), dict(start.network.state_dict()))  # of no file


@pytest.mark.slow
def test_two_processes_have_the_same_teacher(tmp_path: Path) -> None:
    # In a process of its own: one that has used autograd may not be able to fork.
    succeeded(command([], tmp_path, ("-c", "from tiny_teachers import train_in_two; train_in_two()")))
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(dict(first), dict(second))
    assert first["teacher._extra_state"].tolist() == [4, 0]
    assert not torch.equal(first["teacher.network.classifier.weight"], first["reference.network.classifier.weight"])


# -- what is tested ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["student", "teacher"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp(request.param)
    module, data = built_teacher({"test_with": request.param, "decay": 0.5}, "method.optimizer.lr=0.1")
    run = trainer(folder)
    run.fit(module, data)
    wanted = module.teacher.network if request.param == "teacher" else module.network
    plain = SourceOnly(**{k: v for k, v in module.hparams.items() if k not in ("teacher", "separate")})
    plain.network.load_state_dict(wanted.state_dict())
    other = module.network if request.param == "teacher" else module.teacher.network
    assert not torch.equal(wanted.classifier.weight, other.classifier.weight)
    return module, plain.eval(), data, run, folder / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_tests_and_selections_score_it(trained: tuple[Any, ...]) -> None:
    module, plain, data, run, file = trained
    scores = run.test(plain, data, verbose=False)
    assert run.test(module, data, verbose=False) == scores
    assert run.test(module, data, ckpt_path=file, verbose=False, weights_only=True) == scores
    run.strategy.connect(module)
    for score in ("entropy", "oracle"):
        selection = Selection(score)
        assert float(selection._value(run, module)) == float(selection._value(run, plain))


@pytest.mark.slow
def test_predictions_exports_and_pictures_are_its(
    trained: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_teachers")
    module, plain, _, _, file = trained
    loaded, image = load_method(file).eval(), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(loaded(image), plain(image))
        assert torch.equal(
            module.train().pictures({"image": image}, "target")[1], plain.pictures({"image": image}, "")[1]
        )
    write(loaded.exportable(), tmp_path / "network.pt2", "mine")
    exported = torch.export.load(tmp_path / "network.pt2").module()
    torch.testing.assert_close(exported(image), plain(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_another_training_begins_from_it(trained: tuple[Any, ...]) -> None:
    module, plain, _, _, file = trained
    options = {**module.hparams, "init_from": str(file)}
    for begun in (
        MeanTeacher(**options),
        SourceOnly(**{k: options[k] for k in options.keys() - {"teacher", "separate"}}),
    ):
        assert_same(dict(begun.network.state_dict()), dict(plain.network.state_dict()))
    begun = MeanTeacher(**options)
    assert_same(dict(begun.teacher.network.state_dict()), dict(plain.network.state_dict()))


@pytest.mark.slow
@pytest.mark.usefixtures("_settings_restored")
@pytest.mark.parametrize("tested", ["student", "teacher"])
def test_a_run_reports_it_with_selected_weights_and_last_ones(
    tested: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DA_TRUSTED_PACKAGES", "tiny_teachers")
    small = ("method=segmentation_source_only", *tiny("segmentation_source_only"), "callbacks.pictures=null")
    mine = ("method._target_=tiny_teachers.MeanTeacher", f"+method.teacher.test_with={tested}")
    with pytest.raises(UserError, match="has a teacher"):
        train_and_test(composed(*small, *mine, "callbacks=ema"), tmp_path / "averaged", "mean_teacher", "toy")
    cfg = composed(*small, *mine, "selection=oracle")
    train_and_test(cfg, tmp_path, "mean_teacher", "toy")
    scores = json.loads((tmp_path / "metrics.json").read_text())["test"]
    data = build(cfg.data, "data")
    options = OmegaConf.to_container(cfg.method, resolve=True)
    plain = SourceOnly(**{key: value for key, value in options.items() if key not in ("_target_", "teacher")})
    part = "teacher.network." if tested == "teacher" else "network."
    for file, prefix in (("last", "last/"), ("selected_oracle", "")):
        state = torch.load(tmp_path / "checkpoints" / f"{file}.ckpt", weights_only=True)["state_dict"]
        plain.network.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)})
        found = trainer(tmp_path / file).test(plain, data, verbose=False)[0]
        assert {name: scores[prefix + name] for name in found} == pytest.approx(found, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("tested", ["student", "teacher"])
def test_pseudo_labels_are_of_it(tested: str, tmp_path: Path) -> None:
    class TaughtCBST(CBST):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.save_hyperparameters()
            self.teacher = Teacher(self.network, decay=0.5, buffers="copy", test_with=tested)

        def teachers(self) -> dict[str, Teacher]:
            return {"network": self.teacher}

    cfg = composed("method=cbst", *tiny("cbst"))
    options = OmegaConf.to_container(cfg.method, resolve=True)
    options.pop("_target_")
    L.seed_everything(0, verbose=False)
    module, data = TaughtCBST(**options), build(cfg.data, "data")
    run = trainer(tmp_path)
    run.fit(module, data)
    wanted = module.teacher.network if tested == "teacher" else module.network
    run.strategy.connect(module)
    for (index, views), batch in zip(
        Labelling("class_balanced", 1, True)._logits(run, module.eval(), data),
        data.ordered_loader(data.target_view.unaugmented()),
        strict=True,
    ):
        assert torch.equal(index, batch["index"])
        with torch.no_grad():
            assert torch.equal(views[0], wanted.infer(batch["image"]))


class PersonTeacher(ReidSourceOnly):
    def __init__(self, teacher: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.save_hyperparameters()
        self.backbone_teacher = build_teacher(self.backbone, teacher)
        self.embedding_teacher = build_teacher(self.embedding, teacher)

    def teachers(self) -> dict[str, Teacher]:
        return {"backbone": self.backbone_teacher, "embedding": self.embedding_teacher}


@pytest.mark.slow
@pytest.mark.parametrize("tested", ["student", "teacher"])
def test_persons_are_described_by_it(tested: str, tmp_path: Path) -> None:
    cfg = composed("method=reid_source_only", *tiny("reid_source_only"), "method.feature=embedding")
    options = OmegaConf.to_container(cfg.method, resolve=True)
    options.pop("_target_")
    L.seed_everything(0, verbose=False)
    data = build(cfg.data, "data")
    options |= data.facts.options(ReidSourceOnly, options)
    module = PersonTeacher({"test_with": tested, "decay": 0.5}, **options)
    run = trainer(tmp_path)
    run.fit(module, data)
    parts = (module.backbone, module.embedding)
    if tested == "teacher":
        parts = (module.backbone_teacher.network, module.embedding_teacher.network)
    plain = ReidSourceOnly(**{k: v for k, v in module.hparams.items() if k != "teacher"})
    for own, part in zip((plain.backbone, plain.embedding), parts, strict=True):
        own.load_state_dict(part.state_dict())
    image = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(module.eval()(image), plain.eval()(image))
    begun = ReidSourceOnly(**{**plain.hparams, "init_from": str(tmp_path / "checkpoints" / "last.ckpt")})
    for own, part in zip((begun.backbone, begun.embedding), parts, strict=True):
        assert_same(dict(own.state_dict()), dict(part.state_dict()))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_two_averages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a teacher, .*leave out callbacks=ema"):
        fit(Fitted({}), tmp_path, AveragedWeights())
    cfg = composed("method=segmentation_source_only", *tiny("segmentation_source_only"), "callbacks=ema")
    module, data = built_teacher()
    assert isinstance(data, SourceTargetDataModule)
    with pytest.raises(UserError, match="has a teacher"):
        check_built(cfg, data, module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"method.teacher.decay=1.0 was refused: input should be less than 1"),
        ({"update": "often"}, r"method.teacher.update='often' was refused"),
        ({"alpha": 0.9}, r"method.teacher.alpha is not an option of Teacher"),
        ({"norm": "running"}, r"norm=running tracks no statistics.* give buffers=average"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_teacher(nn.Linear(1, 1), options)


def test_precisions_and_players_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="precision=bf16-true would round away .*precision=bf16-mixed"):
        fit(Fitted({}), tmp_path, precision="bf16-true")

    class Nobody(Fitted):
        def players(self) -> dict[str, Player]:
            return {"other": super().players()["other"]}

    with pytest.raises(RuntimeError, match="one player with the parameters of network.* found none"):
        fit(Nobody({}), tmp_path)
