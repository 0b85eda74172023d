"""What a ``_target_`` may be: a class that fills the role of its place, of a package that is trusted with it."""

import inspect
import re
import types
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch import callbacks, loggers, profilers, strategies
from torch import nn, optim
from torch.utils.data import Dataset, Sampler

from da_lightning.config.trust import VARIABLE, is_within, own_packages
from da_lightning.data.downloads import Fetched
from da_lightning.errors import UserError
from da_lightning.training.module import AdaptationModule
from da_lightning.training.selection import Selection
from da_lightning.training.stage_plan import StagePlan
from da_lightning.translation.datasets import Images

ROLES: dict[type, str] = {
    AdaptationModule: "method",
    L.LightningDataModule: "data module",
    Dataset: "data set",
    Fetched: "download",
    L.Trainer: "trainer",
    Selection: "selection",
    StagePlan: "stage plan",
    L.Callback: "callback",
    loggers.Logger: "logger",
    profilers.Profiler: "profiler",
    strategies.Strategy: "strategy",
    nn.Module: "network",
    optim.Optimizer: "optimiser",
    optim.lr_scheduler.LRScheduler: "schedule",
    Sampler: "sampler",
}
"""By base class; the first that fits is a class's role."""

PLACES: dict[str, type] = {
    r"method": AdaptationModule,
    r"data": L.LightningDataModule,
    r"trainer": L.Trainer,
    r"logger": loggers.Logger,
    r"selection": Selection,
    r"callbacks\.[^.]+": L.Callback,
    r"stages\.[^.]+\.each": StagePlan,
}
"""What is built at which key; inside of it, the type hint of each option says what may be built there."""

LIBRARY_CLASSES = frozenset(
    {
        L.Trainer,
        callbacks.DeviceStatsMonitor,
        callbacks.EarlyStopping,
        callbacks.LearningRateMonitor,
        callbacks.ModelCheckpoint,
        callbacks.ModelSummary,
        callbacks.RichModelSummary,
        callbacks.RichProgressBar,
        callbacks.Timer,
        callbacks.TQDMProgressBar,
        loggers.CSVLogger,
        loggers.TensorBoardLogger,
        profilers.AdvancedProfiler,
        profilers.PassThroughProfiler,
        profilers.PyTorchProfiler,
        profilers.SimpleProfiler,
        strategies.DDPStrategy,
        strategies.FSDPStrategy,
        strategies.SingleDeviceStrategy,
    }
)
"""Classes of Lightning that do with their options no more than their role says. Others call what they are given (like
``LambdaCallback``), read pickles or write where they are told to; ``DA_TRUSTED_PACKAGES`` may add them."""

LIBRARY_MODULES = ("torch.nn.modules", "torch.optim", "torch.utils.data.sampler")
"""Where torch's layers, optimisers, schedules and samplers really live: plain numbers make them."""

_LIBRARIES = ("lightning.pytorch", "torch.nn", "torch.optim", "torch.utils.data")  # how their names may begin
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)


def roles_of_place(key: str) -> tuple[type, ...]:
    """The base class of what is built at ``key``; nothing for other keys."""
    return next(((base,) for pattern, base in PLACES.items() if re.fullmatch(pattern, key)), ())


def roles_of_hint(hint: Any) -> tuple[type, ...]:
    """The base classes of what an option of this type hint, or an item of it, may be built from.

    An option that is text takes a :class:`~da_lightning.data.downloads.Fetched`, which stands for its folder.
    """
    named = list(_classes(hint))
    wanted = [Dataset if kind is Images else kind for kind in named]
    found = tuple(kind for kind in wanted if issubclass(kind, tuple(ROLES)))
    return found or ((Fetched,) if {str, Path} & set(named) else ())


def _classes(hint: Any) -> typing.Iterator[type]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return
    if isinstance(origin, type) and origin is not types.UnionType:
        yield origin  # of Dataset[...]
    elif isinstance(hint, type):
        yield hint
    for argument in arguments[:1] if origin is typing.Annotated else arguments:
        yield from _classes(argument)


def class_of_role(name: Any, wanted: tuple[type, ...], place: str) -> type:
    """The class that ``name`` says.

    Args:
        name: The dotted name, ``package.module.Class``.
        wanted: Base classes; it must have one of them.
        place: What names it, for messages.

    Raises:
        UserError: There is no such class, it has another role, or its package is not trusted; outside trusted packages
            nothing is imported.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{place} must be the dotted name of a class, package.module.Class, without leading underscores."
        )
    if not wanted:
        raise UserError(
            f"{place} is where nothing is built, as the type hints of the class around it say: take _target_ out, or "
            "give that option the type hint of what it takes."
        )
    packages = own_packages()
    if not is_within(name, (*packages, *_LIBRARIES)):
        raise _untrusted(place, name, packages)
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{place} cannot be imported ({str(error).splitlines()[0]}): check its spelling.") from None
    role = " or ".join(dict.fromkeys(role_of(base) for base in wanted))
    if not isinstance(found, type):
        raise UserError(f"{place} is no class, but a {role} is wanted there: name a class.")
    real = f"{found.__module__}.{found.__qualname__}"
    if not issubclass(found, wanted):
        bases = " or ".join(base.__name__ for base in wanted)
        raise UserError(f"{place} is {real}, but a {role} is wanted there: name a class derived from {bases}.")
    if inspect.isabstract(found):
        raise UserError(f"{place} is abstract: name a class derived from it.")
    if not (is_within(found.__module__, (*packages, *LIBRARY_MODULES)) or found in LIBRARY_CLASSES):
        raise _untrusted(place, real, packages)
    return found


def role_of(kind: type) -> str:
    """The name of its role."""
    return next((role for base, role in ROLES.items() if issubclass(kind, base)), kind.__name__)


def _untrusted(place: str, name: str, packages: tuple[str, ...]) -> UserError:
    return UserError(
        f"{place} is {name}, outside the trusted packages ({', '.join(packages)}) and none of the library classes that "
        f"recipes may use: if you trust it, add its package to the environment variable {VARIABLE}."
    )
