"""Names as strangers chose them, shown safely: no escape sequence reaches a terminal, a log or a page."""

import logging
import os
import re
import warnings
from typing import Any

# Control and format characters (as those that turn the reading direction), line ends of Unicode, and surrogates;
# not the two joiners, which are parts of Persian and Indian words, and of emoji.
_UNSEEN = (
    "\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U00013438\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f\ud800-\udfff"
)
_HIDDEN = re.compile(f"[\x00-\x1f{_UNSEEN}]")
_HIDDEN_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSEEN}]")  # not tabs and line ends


def shown(text: object, lines: bool = False) -> str:
    """``text`` with what a terminal obeys, or hides, made visible: ``\\x1b``, ``\\n``, ``\\u202e``.

    Bytes of a file name that are not UTF-8 become ``\\xe9``.

    Args:
        text: A name or a message.
        lines: Leave line ends and tabs as they are.
    """
    return (_HIDDEN_IN_LINES if lines else _HIDDEN).sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if 0xDC80 <= number <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()


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
