"""Arguments held against a signature: the constructor's type hints are the schema of its options."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from da_lightning.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What torch, numpy and Lightning take."""

Colour = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]
"""RGB."""

Size = tuple[PositiveInt, PositiveInt]
"""(H, W)."""


def checked_arguments(function: Callable, arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Check names and types of ``arguments`` for ``function``.

    Args:
        function: The class or function that is to be called; ``**options`` of a constructor are its base classes'.
        arguments: Keyword arguments by name.
        key: Where they come from, e.g. ``"method"``; the message names ``method.portion``.

    Returns:
        The arguments, converted where that loses nothing (``1`` for a float, ``"0.3"`` for a float).

    Raises:
        UserError: An unknown or missing name, or a value of another type.
    """
    parameters, hints, is_open = _signature(function)
    for name in arguments:
        if name not in parameters and not is_open:
            raise UserError(
                f"{key}.{name} is not an option of {function.__name__}: it takes {', '.join(parameters) or 'none'}."
            )
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise UserError(f"{', '.join(f'{key}.{n}' for n in missing)} must be set: {function.__name__} has no default.")
    return {n: _checked(v, hints[n], f"{key}.{n}") if n in hints else v for n, v in arguments.items()}


def checked_words(function: Callable, words: Sequence[str], key: str) -> dict[str, Any]:
    """Arguments for ``function`` from a command's ``name=value`` words; a path may hold ``=`` or a comma.

    Raises:
        UserError: A word without a name, or what :func:`checked_arguments` refuses.
    """
    arguments: dict[str, str | None] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise UserError(f"{word!r} is no option: write name=value, or see --help.")
        arguments[name] = None if value == "null" else value
    return checked_arguments(function, arguments, key)


def option_hints(function: Callable) -> dict[str, Any]:
    """Type hints of what ``function`` takes, by name, as :func:`checked_arguments` sees them."""
    return _signature(function)[1]


def _signature(function: Callable) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """Parameters, type hints, and whether any other keyword is taken."""
    callables = [function]
    if inspect.isclass(function):
        # ``**options`` go to the next base class, up to the last of ours; what other packages do is not known.
        line = list(function.__mro__[1:])
        while line and not line[-1].__module__.startswith("da_lightning."):
            line.pop()
        bases = [kind for kind in line if "__init__" in vars(kind)]
        callables = [inspect.getattr_static(kind, "__init__") for kind in (function, *bases)]
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for call in callables:
        own = inspect.signature(call).parameters
        named = {n: p for n, p in own.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n != "self"}
        parameters = named | parameters
        hints = _hints(call) | hints
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            return parameters, hints, False
    return parameters, hints, True


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # hints that only a type checker can resolve
        return {}


def _checked(value: Any, hint: Any, key: str) -> Any:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([key, *(str(part) for part in problem["loc"] if isinstance(part, int))])
        raise UserError(f"{place}={problem['input']!r} was refused: {problem['msg'].lower()}.") from None
    except PydanticUserError:  # a hint that pydantic has no rule for
        return value
