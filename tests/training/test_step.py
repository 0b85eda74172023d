"""The shared training step on two players small enough to check by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from tiny_runs import Poison, assert_same_training, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from da_lightning.errors import NotFiniteError, UserError
from da_lightning.training.module import AdaptationModule, frozen
from da_lightning.training.players import Backward, Batch, Group, Player, Step, Term, Updates
from da_lightning.training.stopping import StopAtSignal


class Duel(AdaptationModule):
    """Two lines, each fitted to its domain with two terms."""

    def __init__(
        self,
        clip: float | None = None,
        second_clip: float | None = None,
        lr: float = 0.1,
        momentum: float = 0.0,
        fused: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**{"max_iters": 1, **options})
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 1), nn.Linear(3, 1)
        self.clips, self.options = (clip, second_clip), {"name": "SGD", "lr": lr, "momentum": momentum, "fused": fused}

    def players(self) -> dict[str, Player]:
        groups = [Group([self.first.weight]), Group([self.first.bias], 2.0)]
        return {
            "first": Player(groups, self.options, self.clips[0], self.schedule),
            "second": Player([Group(list(self.second.parameters()))], self.options, self.clips[1], self.schedule),
        }

    def terms(self, batch: Batch) -> Iterator[tuple[str, dict[str, Term]]]:
        for name, domain in (("first", "source"), ("second", "target")):
            error = getattr(self, name)(batch[domain]["x"])[:, 0] - batch[domain]["y"]
            yield name, {"square": Term(error.square().mean()), "mean": Term(error.mean().square(), 0.5)}

    def updates(self, batch: Batch) -> Updates:
        for name, terms in self.terms(batch):
            yield Backward(name, terms)
            yield Step(name)


class Halving(Duel):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, schedule={"name": "steps", "every": 1, "factor": 0.5})


class Watch(L.Callback):
    """Notes each batch's iteration and learning rate, and the number of steps."""

    def __init__(self) -> None:
        self.iterations: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.iterations.append(pl_module.iteration)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def batches(count: int, size: int = 4) -> list[dict[str, dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    x, y = 5 * torch.randn(count, 2, size, 3, generator=generator), torch.randn(count, 2, size, generator=generator)
    return [{"source": {"x": a[0], "y": b[0]}, "target": {"x": a[1], "y": b[1]}} for a, b in zip(x, y, strict=True)]


def joined(parts: list[dict[str, dict[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    return {d: {k: torch.cat([p[d][k] for p in parts]) for k in ("x", "y")} for d in ("source", "target")}


def fit(module: AdaptationModule, content: list, folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    path = options.pop("ckpt_path", None)
    run = trainer(folder, *callbacks, **options)
    run.fit(module, DataLoader(content, batch_size=None), ckpt_path=path)
    return run


# -- clipping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("fused", [False, True])  # fused steps unscale by themselves, after the clipping
def test_clipping_gives_the_wanted_norm_to_its_player_alone(fused: bool, scaled: bool, tmp_path: Path) -> None:
    free, clipped = Duel(lr=0.25, fused=fused), Duel(lr=0.25, clip=0.01, fused=fused)
    start = {name: p.detach().clone() for name, p in clipped.named_parameters()}
    for number, module in enumerate((free, clipped)):
        scaler = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
        fit(module, batches(1), tmp_path / str(number), plugins=[scaler] if scaled else [])

    def gradient(module: Duel, player: str) -> Tensor:
        """As the step applied it: with plain SGD the change over the learning rate (0.25, of the bias 0.5)."""
        factors = {"weight": 0.25, "bias": 0.5 if player == "first" else 0.25}
        changes = [(start[f"{player}.{k}"] - getattr(module, player).get_parameter(k)) / f for k, f in factors.items()]
        return torch.cat([change.flatten() for change in changes]).detach()

    assert gradient(free, "first").norm() > 1
    assert gradient(clipped, "first").norm().item() == pytest.approx(0.01, rel=1e-3)
    directions = gradient(clipped, "first") / 0.01, gradient(free, "first") / gradient(free, "first").norm()
    torch.testing.assert_close(*directions, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(gradient(clipped, "second"), gradient(free, "second"))


# -- counting, stopping, schedules -------------------------------------------------------------------------------------


def test_iterations_are_batches_and_training_stops_at_the_last(tmp_path: Path) -> None:
    module, watch = Duel(max_iters=7), Watch()
    run = fit(module, batches(3), tmp_path, watch)
    assert watch.iterations == list(range(7))
    assert run.global_step == 2 * 7  # what Lightning counts: steps of both optimisers
    assert run.fit_loop.max_epochs == 3  # for the progress bar


def test_count_rates_and_weights_go_on_after_a_resume(tmp_path: Path) -> None:
    whole = Watch()
    fit(Halving(max_iters=6, momentum=0.9), batches(2), tmp_path / "whole", whole)
    assert whole.rates == [0.1 * 0.5**n for n in range(6)]

    fit(Halving(max_iters=4, momentum=0.9), batches(2), tmp_path / "half")
    rest = Watch()
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    fit(Halving(max_iters=6, momentum=0.9), batches(2), tmp_path / "rest", rest, ckpt_path=half)
    assert rest.iterations == [4, 5]
    assert rest.rates == whole.rates[4:]
    ends = [tmp_path / part / "checkpoints" / "last.ckpt" for part in ("whole", "rest")]
    assert_same_training(*ends)


@pytest.mark.parametrize(("first", "then"), [(4, 10), (4, 8), (9, 10), (20, 21)])
def test_a_training_that_ended_inside_an_epoch_is_made_longer(first: int, then: int, tmp_path: Path) -> None:
    fit(Duel(max_iters=first), batches(10), tmp_path)
    module, rest = Duel(max_iters=then), Watch()
    fit(module, batches(10), tmp_path, rest, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert rest.iterations == list(range(first, then))
    assert module.iterations_done == then


class Done(L.Callback):
    """Notes ``iterations_done`` in each hook."""

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}

    def _note(self, hook: str, module: Any) -> None:
        self.found.setdefault(hook, []).append(module.iterations_done)


def _noting(hook: str) -> Any:
    return lambda self, trainer, pl_module, *arguments, **options: self._note(hook, pl_module)


STARTS = ["setup", "on_fit_start", "on_sanity_check_start", "on_sanity_check_end", "on_train_start"]
BATCHES = ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"]
EPOCHS = ["on_train_epoch_start", "on_validation_start", "on_validation_end", "on_train_epoch_end"]
ENDS = ["on_train_end", "on_fit_end", "on_test_start", "on_test_end"]
for _hook in (*STARTS, *BATCHES, *EPOCHS, *ENDS):
    setattr(Done, _hook, _noting(_hook))


class Evaluated(Duel):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def test_step(self, batch: Any, batch_idx: int) -> None: ...


def watched(length: int, folder: Path, **options: Any) -> tuple[Evaluated, L.Trainer, dict[str, list[int]]]:
    done, module = Done(), Evaluated(max_iters=length)
    assert module.iterations_done == 0, "before it has a trainer"
    run = trainer(folder, done, num_sanity_val_steps=1)
    loader = DataLoader(batches(3), batch_size=None)
    run.fit(module, loader, loader, **options)
    assert module.iterations_done == length
    run.test(module, loader, verbose=False)
    return module, run, done.found


def test_the_iterations_done_are_right_in_every_hook(tmp_path: Path) -> None:
    module, _, found = watched(5, tmp_path)
    assert {hook: found[hook] for hook in STARTS[1:]} == {hook: [0] for hook in STARTS[1:]}
    assert found["on_train_batch_start"] == [0, 1, 2, 3, 4]
    assert found["on_before_optimizer_step"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # of two players
    assert found["on_train_batch_end"] == [1, 2, 3, 4, 5]
    assert found["on_train_epoch_start"] == [0, 3]
    assert found["on_validation_start"] == [0, 3, 5] and found["on_validation_end"] == [0, 3, 5]  # 0: sanity check
    assert found["on_train_epoch_end"] == [3, 5]
    assert {hook: found[hook] for hook in ENDS} == {hook: [5] for hook in ENDS}
    assert found["setup"] == [0, 5]  # of the training, of the test
    assert module.iterations_done == 5


@pytest.mark.parametrize("first", [3, 5], ids=["an epoch's end", "inside an epoch"])
def test_the_iterations_done_are_right_after_a_resume(first: int, tmp_path: Path) -> None:
    watched(first, tmp_path / "first")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    module, run, found = watched(8, tmp_path / "then", ckpt_path=last)
    assert found["on_fit_start"] == [first] and found["on_train_start"] == [first]
    assert found["on_train_batch_start"] == list(range(first, 8))
    assert found["on_train_batch_end"] == list(range(first + 1, 9))
    assert {hook: found[hook] for hook in ENDS} == {hook: [8] for hook in ENDS}
    # Weights from another iteration are tested: the training that was done stays what it was.
    run.test(module, DataLoader(batches(1), batch_size=None), ckpt_path=last, verbose=False, weights_only=True)
    assert found["on_test_start"] == [8, 8] and module.iterations_done == 8


def test_a_stopped_run_says_how_far_it_was_from_its_first_moment_on(tmp_path: Path) -> None:
    class AtStart(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            found.append((signals.progress.done, signals.progress.saved))

    found: list[tuple[int, int | None]] = []
    for length, options in ((4, {}), (6, {"ckpt_path": tmp_path / "4" / "checkpoints" / "last.ckpt"})):
        signals = StopAtSignal("x")
        fit(Duel(max_iters=length), batches(2), tmp_path / str(length), signals, AtStart(), **options)
    assert found == [(0, None), (4, 4)]


class EachSeven(L.Callback):
    """A checkpoint inside an epoch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if (trainer.fit_loop.total_batch_idx + 1) % 7 == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{trainer.fit_loop.total_batch_idx + 1}.ckpt")


@pytest.mark.parametrize(("first", "then"), [(7, 25), (14, 33), (14, 20), (21, 31)])
def test_from_inside_an_epoch_it_goes_on_to_the_end(first: int, then: int, tmp_path: Path) -> None:
    fit(Duel(max_iters=22, lr=0.001), batches(10), tmp_path, EachSeven())
    module = Duel(max_iters=then, lr=0.001)
    fit(module, batches(10), tmp_path / "rest", ckpt_path=tmp_path / f"{first}.ckpt")
    assert module.iterations_done == then


def test_epochs_of_another_length_go_on_to_the_same_iteration(tmp_path: Path) -> None:
    fit(Duel(max_iters=6), batches(6), tmp_path)
    rest = Watch()
    fit(Duel(max_iters=11), batches(2), tmp_path, rest, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert rest.iterations == list(range(6, 11))


# -- accumulation ------------------------------------------------------------------------------------------------------


def test_two_batches_accumulated_equal_one_of_double_size(tmp_path: Path) -> None:
    class Squares(Duel):  # a mean over samples, unlike the square of their mean
        def terms(self, batch: Batch) -> Iterator[tuple[str, dict[str, Term]]]:
            for name, terms in super().terms(batch):
                yield name, {"square": terms["square"]}

    content = batches(4)
    options = {"momentum": 0.9, "clip": 0.5, "second_clip": 1.0}  # each clips its own gradient, and only the whole one
    two, one = Squares(max_iters=4, accumulate=2, **options), Squares(max_iters=2, **options)
    run = fit(two, content, tmp_path / "two")
    fit(one, [joined(content[:2]), joined(content[2:])], tmp_path / "one")
    assert run.global_step == 2 * 2
    torch.testing.assert_close(two.state_dict(), one.state_dict())


def test_what_is_left_at_the_end_of_training_makes_a_step(tmp_path: Path) -> None:
    content = batches(9)
    inside, alone = Duel(max_iters=3, accumulate=2), Duel(max_iters=3, accumulate=2)
    run = fit(inside, content, tmp_path / "inside")
    fit(alone, content[:3], tmp_path / "alone")
    assert run.global_step == 2 * 2
    torch.testing.assert_close(inside.state_dict(), alone.state_dict())


def test_what_is_left_at_the_epochs_end_makes_a_step(tmp_path: Path) -> None:
    content = batches(3)
    module, expected = Duel(max_iters=3, accumulate=2), Duel()
    run = fit(module, content, tmp_path)
    assert run.global_step == 2 * 2
    optimizers = [configured["optimizer"] for configured in expected.configure_optimizers()]
    for parts in (content[:2], content[2:]):
        for optimizer in optimizers:
            optimizer.zero_grad()
        for batch in parts:
            for _, terms in expected.terms(batch):
                (sum(term.weight * term.value for term in terms.values()) / len(parts)).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(module.state_dict(), expected.state_dict())


# -- several backward passes and one step ------------------------------------------------------------------------------


class Apart(Duel):
    """The terms of a player in backward passes of their own, which share a graph."""

    def updates(self, batch: Batch) -> Updates:
        for name, terms in self.terms(batch):
            for number, (term, value) in enumerate(terms.items()):
                yield Backward(name, {term: value}, keep_graph=number == 0)
            yield Step(name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_terms_in_passes_of_their_own_are_those_of_one_pass(accumulate: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_iters": 4, "momentum": 0.9, "clip": 0.5, "accumulate": accumulate}
    apart, together = Apart(**options), Duel(**options)
    logged = [
        fit(module, batches(4), tmp_path / str(number)).logged_metrics
        for number, module in enumerate((apart, together))
    ]
    torch.testing.assert_close(apart.state_dict(), together.state_dict())
    torch.testing.assert_close(logged[0], logged[1])


def test_gradients_wait_for_their_players_step(tmp_path: Path) -> None:
    class Late(Duel):
        def updates(self, batch: Batch) -> Updates:
            for name, terms in list(self.terms(batch)):
                yield Backward(name, terms)
            seen.append({name: p.grad is not None for name, p in self.named_parameters()})
            yield Step("second")
            seen.append({name: p.grad is not None for name, p in self.named_parameters()})
            yield Step("first")

    seen: list[dict[str, bool]] = []
    late, usual = Late(), Duel()
    fit(late, batches(1), tmp_path / "late")
    fit(usual, batches(1), tmp_path / "usual")
    torch.testing.assert_close(late.state_dict(), usual.state_dict())
    assert all(seen[0].values())
    assert {name.partition(".")[0] for name, there in seen[1].items() if there} == {"first"}


def test_a_player_that_never_steps_or_has_nothing_to_step_by_is_named(tmp_path: Path) -> None:
    class Forgotten(Duel):
        def updates(self, batch: Batch) -> Updates:
            yield from (update for update in super().updates(batch) if update != Step("second"))

    class Idle(Duel):
        def updates(self, batch: Batch) -> Updates:
            yield Step("second")

    with pytest.raises(RuntimeError, match="Forgotten .* second"):
        fit(Forgotten(), batches(1), tmp_path)
    with pytest.raises(RuntimeError, match=r"Idle .*Step\(second\)"):
        fit(Idle(), batches(1), tmp_path)


class Deep(AdaptationModule):
    """Three losses through a network whose activations are far larger than its weights."""

    def __init__(self, passes: int) -> None:
        super().__init__(max_iters=1)
        self.passes, self.held = passes, [0, 0]
        self.network = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())))

    def players(self) -> dict[str, Player]:
        return {"network": Player([Group(list(self.parameters()))], {"name": "SGD", "lr": 0.1})}

    def updates(self, batch: Tensor) -> Updates:  # type: ignore[override]
        for number in range(self.passes):
            yield Backward("network", {f"loss_{number}": Term(self.network(batch + number).square().mean())})
        yield Step("network")


def test_terms_one_after_another_need_the_memory_of_one(tmp_path: Path) -> None:
    batch = torch.randn(4096, 8)

    def peak(passes: int) -> int:
        module, held = Deep(passes), [0, 0]  # bytes of activations that are kept for backward passes, and their peak

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor, self.size = tensor, tensor.nbytes
                held[0] += self.size
                held[1] = max(held)

            def __del__(self) -> None:
                held[0] -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            fit(module, [batch], tmp_path / str(passes))
        return held[1]

    assert peak(1) > 4 * batch.nbytes
    assert peak(3) < 1.1 * peak(1)


# -- parameter groups and schedules ------------------------------------------------------------------------------------


def test_groups_have_a_rate_and_a_decay_of_their_own(tmp_path: Path) -> None:
    class Groups(Duel):
        def players(self) -> dict[str, Player]:
            groups = [Group([self.first.weight], 3.0, 0.0), Group([self.first.bias], weight_decay=0.2)]
            options = {"name": "AdamW", "lr": 0.1, "weight_decay": 0.05}
            return {
                "first": Player(groups, options, schedule=lambda iteration: 0.5),
                "second": Player([Group(list(self.second.parameters()))], options),
            }

    run = fit(Groups(), batches(1), tmp_path)
    found = [[(g["initial_lr"], g["weight_decay"]) for g in o.param_groups] for o in run.optimizers]
    assert found == [[(pytest.approx(0.3), 0.0), (0.1, 0.2)], [(0.1, 0.05)]]
    assert [o.param_groups[0]["lr"] for o in run.optimizers] == [pytest.approx(0.15), 0.1]


# -- noise -------------------------------------------------------------------------------------------------------------


def test_noise_depends_on_seed_and_epoch_and_on_nothing_drawn_before(tmp_path: Path) -> None:
    class Noisy(Duel):
        def updates(self, batch: Batch) -> Updates:
            drawn.append(torch.rand(()).item())
            yield from super().updates(batch)

    noise = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        drawn: list[float] = []
        fit(Noisy(max_iters=4, seed=seed), batches(2), tmp_path / str(number))
        noise.append(drawn)
    assert noise[0] == noise[1]
    assert len(set(noise[0] + noise[2])) == 8


# -- when it goes wrong ------------------------------------------------------------------------------------------------


def test_a_term_that_is_not_finite_stops_the_run_and_is_named(tmp_path: Path) -> None:
    class Broken(Duel):
        def terms(self, batch: Batch) -> Iterator[tuple[str, dict[str, Term]]]:
            for name, terms in super().terms(batch):
                bad = name == "second" and self.iteration == 3
                yield name, terms | {"ratio": Term(terms["mean"].value / (0.0 if bad else 1.0))}

    with pytest.raises(NotFiniteError, match=r"train/second/ratio\b.*iteration 3\b"):
        fit(Broken(max_iters=9), batches(2), tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2 * 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_weights_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"train/first/square, mean\b.*iteration 2\b"):
        fit(Duel(max_iters=9), batches(2), tmp_path, Poison(iteration=2))


def test_no_checkpoint_holds_what_a_broken_gradient_made(tmp_path: Path) -> None:
    class Broken(Duel):
        def terms(self, batch: Batch) -> Iterator[tuple[str, dict[str, Term]]]:
            for name, terms in super().terms(batch):
                bad = name == "second" and self.iteration == 3  # the last of an epoch: its loss is finite
                root = (terms["mean"].value * 0.0).abs().sqrt()
                yield name, terms | ({"root": Term(root)} if bad else {})

    with pytest.raises(NotFiniteError, match=r"is not finite after iteration 3, for a gradient was not"):
        fit(Broken(max_iters=9), batches(4), tmp_path)
    for file in (tmp_path / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        assert all(value.isfinite().all() for value in content["state_dict"].values())


# -- frozen ------------------------------------------------------------------------------------------------------------


def test_frozen_networks_pass_gradients_on_and_take_none() -> None:
    first, second, never = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(1, 1).requires_grad_(False)
    with frozen(second, never):
        never(second(first(torch.ones(1, 3)))).sum().backward()
        assert not any(p.requires_grad for p in second.parameters())
    assert all(p.grad is not None for p in first.parameters())
    assert all(p.grad is None and p.requires_grad for p in second.parameters())
    assert not any(p.requires_grad for p in never.parameters())


def test_frozen_networks_thaw_when_something_fails() -> None:
    network = nn.Linear(3, 1)
    with pytest.raises(ZeroDivisionError), frozen(network):
        _ = 1 / 0
    assert all(p.requires_grad for p in network.parameters())


# -- what is logged ----------------------------------------------------------------------------------------------------


def test_terms_are_logged_unweighted_and_the_loss_weighted(tmp_path: Path) -> None:
    module = Duel()
    (batch,) = batches(1)
    expected = dict(module.terms(batch))
    logged = fit(module, [batch], tmp_path).logged_metrics
    for name, terms in expected.items():
        for term, value in terms.items():
            torch.testing.assert_close(logged[f"train/{name}/{term}"], value.value.detach())
        loss = terms["square"].value + 0.5 * terms["mean"].value
        torch.testing.assert_close(logged[f"train/{name}/loss"], loss.detach())
    assert logged["train/iteration"] == 0


def test_the_loss_of_a_player_with_two_updates_is_of_both(tmp_path: Path) -> None:
    class Twice(Duel):
        def terms(self, batch: Batch) -> Iterator[tuple[str, dict[str, Term]]]:
            for term in ("square", "mean"):
                for name, terms in super().terms(batch):
                    yield name, {term: terms[term]}

    (batch,) = batches(1)
    expected = dict(Duel().terms(batch))["first"]
    logged = fit(Twice(lr=0.0), [batch], tmp_path).logged_metrics
    loss = expected["square"].value + 0.5 * expected["mean"].value
    torch.testing.assert_close(logged["train/first/loss"], loss.detach())


def test_accumulated_gradients_of_several_players_have_one_scale(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(UserError, match="trainer.precision=16-mixed.*method.accumulate=2"):
        fit(Duel(max_iters=2, accumulate=2), batches(2), tmp_path, plugins=[scaler])
