"""Teachers: averages of a network's weights that a method learns from, and frozen copies of a network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from da_lightning.arguments import checked_arguments
from da_lightning.errors import UserError
from da_lightning.private.lightning import trainer_of
from da_lightning.training.ema import AveragedWeights, Decay
from da_lightning.training.players import Player
from da_lightning.training.precision import CONVERTED


class Teacher(nn.Module):
    """The exponential moving average of a network's weights, without gradients.

    It begins as a copy of the network. Its update ``t``, counted from 0, makes ``a * teacher + (1 - a) * student`` of
    its weights, ``a = min(1 - 1 / (t + 1), decay)``. It counts the steps of its student's optimiser, not batches.
    Weights and count are in the state dict.

    Called, it labels: without dropout and drop path, and with batch norm as ``norm`` says. At all other times it is in
    eval mode, whatever mode the method is put into, so that a test neither depends on its batches nor changes it.

    Args:
        network: The student, which is copied.
        decay: Of the average.
        ramp: ``False``: ``a`` is ``decay`` from the first update on.
        update: ``after`` a step of the student (DACS, MMT), or ``before`` the next batch (DAFormer, MIC). Only the
            latter counts the student's first weights in the plain mean that the ramp begins with.
        buffers: Its batch-norm statistics: ``own`` are tracked in its own forward passes; ``average`` and ``copy``
            are made of the student's at each update.
        norm: ``batch``: it labels by the statistics of the batch, as DAFormer's and MIC's do; ``running``: by those in
            its buffers. Norms that its network keeps frozen stay so.
        test_with: Which of both is tested, predicts, is exported and scored, by the statistics in its buffers.

    Raises:
        UserError: ``norm=running`` with ``buffers=own``.
    """

    def __init__(
        self,
        network: nn.Module,
        decay: Decay = 0.999,
        ramp: bool = True,
        update: Literal["before", "after"] = "after",
        buffers: Literal["own", "average", "copy"] = "own",
        norm: Literal["batch", "running"] = "batch",
        test_with: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__()
        if (norm, buffers) == ("running", "own"):
            raise UserError(
                "A teacher with norm=running tracks no statistics, and buffers=own would keep the first ones for ever: "
                "give buffers=average or buffers=copy, or norm=batch."
            )
        self.decay, self.ramp, self.update = decay, ramp, update
        self.buffer_policy, self.test_with = buffers, test_with
        self.updates = 0
        self.is_due = True  # whether the student has stepped since the last update
        self.network = deepcopy(network).requires_grad_(False)
        self.network.train()
        # By name: layers are replaced where batch norm is synchronised between devices.
        self._live = [name for name, part in self.network.named_modules() if _is_live(part) and norm == "batch"]
        self.eval()

    @classmethod
    def frozen(cls, network: nn.Module) -> "Teacher":
        """A copy of ``network`` in eval mode that is never updated; not one of a method's ``teachers()``."""
        return cls(network, norm="running", buffers="copy")

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @contextmanager
    def labelling(self) -> Iterator[None]:
        """Inside, ``network`` is in the mode that it labels in, for those who call parts of it."""
        norms: list[Any] = [self.network.get_submodule(name) for name in self._live]
        for norm in norms:
            norm.training, norm.track_running_stats = True, self.buffer_policy == "own"
        try:
            with torch.no_grad():
                yield
        finally:
            for norm in norms:
                norm.training, norm.track_running_stats = False, True

    def forward(self, *inputs: Any) -> Any:
        with self.labelling():
            return self.network(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Update."""
        decay = min(1 - 1 / (self.updates + 1), self.decay) if self.ramp else self.decay
        self._take("parameters", student, decay)
        if self.buffer_policy != "own":
            self._take("buffers", student, decay if self.buffer_policy == "average" else 0.0)
        self.updates, self.is_due = self.updates + 1, False

    @torch.no_grad()
    def begin_as(self, student: nn.Module) -> None:
        """Take all weights and statistics of ``student``."""
        self._take("parameters", student, 0.0)
        self._take("buffers", student, 0.0)

    def _take(self, kind: Literal["parameters", "buffers"], student: nn.Module, decay: float) -> None:
        pairs = list(zip(getattr(self.network, kind)(), getattr(student, kind)(), strict=True))
        averaged = [(own, new) for own, new in pairs if own.is_floating_point()]
        if averaged:
            get_ema_multi_avg_fn(decay)(*map(list, zip(*averaged, strict=True)), 0)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)

    # Not buffers: the step decides by them, and would wait for a GPU to read them.
    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.updates, int(self.is_due)])

    def set_extra_state(self, state: Tensor) -> None:
        self.updates, self.is_due = int(state[0]), bool(state[1])


def build_teacher(network: nn.Module, options: Mapping[str, Any]) -> Teacher:
    """A teacher of ``network`` by the ``options`` of :class:`Teacher`, which a method has as ``teacher``.

    Raises:
        UserError: An unknown option, or a value that is none.
    """
    return Teacher(**checked_arguments(Teacher, {**options, "network": network}, "method.teacher"))


class Following:
    """What the training step does for a method's teachers: each follows the player that moves its student.

    Args:
        module: The method.
        teachers: By the name of the network that each averages.
        players: By name.

    Raises:
        UserError: The training averages its weights besides, or has a precision that averages cannot have.
        RuntimeError: No player moves a student, or several do.
    """

    def __init__(
        self, module: L.LightningModule, teachers: Mapping[str, Teacher], players: Mapping[str, Player]
    ) -> None:
        self._followers: dict[str, list[tuple[Teacher, nn.Module]]] = {name: [] for name in players}
        if (trainer := trainer_of(module)) is not None:
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            check_one_average(teachers, any(isinstance(callback, AveragedWeights) for callback in callbacks))
            if teachers and trainer.precision in CONVERTED and trainer.precision != "64-true":
                raise UserError(
                    f"trainer.precision={trainer.precision} would round away what an update changes in the weights of "
                    f"a teacher: give trainer.precision={trainer.precision.replace('true', 'mixed')}."
                )
        self._scaler = getattr(getattr(trainer, "precision_plugin", None), "scaler", None)
        for name, teacher in teachers.items():
            student = module.get_submodule(name)
            own = {id(parameter) for parameter in student.parameters()}
            leaders = [player for player in players if own & {id(p) for p in players[player].parameters}]
            if len(leaders) != 1:
                raise RuntimeError(
                    f"Expected one player with the parameters of {name}, whose teacher {type(module).__name__} names, "
                    f"found {', '.join(leaders) or 'none'}."
                )
            self._followers[leaders[0]].append((teacher, student))
            if trainer is not None and trainer.ckpt_path is None and not teacher.updates:
                teacher.begin_as(student)  # which may have loaded weights after the teacher was made

    def begin(self) -> None:
        """Update what is updated before a batch."""
        for teacher, student in (pair for pairs in self._followers.values() for pair in pairs):
            if teacher.update == "before" and teacher.is_due:
                teacher.follow(student)

    @contextmanager
    def step(self, player: str) -> Iterator[None]:
        """Inside, ``player`` steps; a step that fp16's scaler leaves out is none."""
        followers = self._followers[player]
        scale = self._scaler.get_scale() if self._scaler is not None and followers else 0.0
        yield
        if self._scaler is not None and followers and self._scaler.get_scale() < scale:
            return
        for teacher, student in followers:
            teacher.is_due = True
            if teacher.update == "after":
                teacher.follow(student)


def check_one_average(teachers: Mapping[str, Teacher], is_averaged: bool) -> None:
    """Refuse a teacher in a training that averages its weights, and the teacher with them.

    Raises:
        UserError: Both are asked for.
    """
    if is_averaged and teachers:
        raise UserError(
            f"The method's {', '.join(teachers)} has a teacher, an average of its own, which callbacks=ema would "
            "average once more: leave out callbacks=ema; method.teacher.test_with=teacher tests the teacher."
        )


def recorded_teachers(module: nn.Module, teachers: Mapping[str, Teacher]) -> dict[str, str | None]:
    """What checkpoints record: each teacher's name, and the network that it replaces in tests, if any."""
    named = {name: part for name, part in module.named_modules() if isinstance(part, Teacher)}
    students = {id(teacher): name for name, teacher in teachers.items()}
    return {
        name: students.get(id(teacher)) if teacher.test_with == "teacher" else None for name, teacher in named.items()
    }


def _is_live(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.training and part.track_running_stats
