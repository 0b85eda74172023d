"""Names as strangers chose them, shown safely: no escape sequence reaches a terminal, a log or a page."""

import logging
import os
import unicodedata
import warnings
from typing import Any

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (as turning the reading direction), surrogates, line ends
_JOINERS = "\u200c\u200d"  # parts of Persian and Indian words, and of emoji


def shown(text: object, lines: bool = False) -> str:
    """``text`` with what a terminal obeys, or hides, made visible: ``\\x1b``, ``\\n``, ``\\u202e``.

    Bytes of a file name that are not UTF-8 become ``\\xe9``.

    Args:
        text: A name or a message.
        lines: Leave line ends and tabs as they are.
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = _JOINERS + ("\n\t" if lines else "")
    return "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN and c not in kept else c for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class ShownRecord(logging.LogRecord):
    """A log record whose message holds nothing that a terminal obeys, whichever handler prints it."""

    def getMessage(self) -> str:
        args: Any = self.args
        if isinstance(args, tuple):
            args = tuple(shown(a) if isinstance(a, str | os.PathLike | BaseException) else a for a in args)
        message = str(self.msg)
        return shown(message % args if args else message, lines=True)


def show_names_safely() -> None:
    """From now on, log lines and warnings of all libraries are :func:`shown`."""
    logging.setLogRecordFactory(ShownRecord)
    warnings.formatwarning = _formatted_warning


_format = warnings.formatwarning


def _formatted_warning(*arguments: Any, **options: Any) -> str:
    return shown(_format(*arguments, **options), lines=True)
