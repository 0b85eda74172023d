"""Files from servers that are not trusted: https first, few redirects, bounded in size and in time, resumed."""

import logging
import os
import queue
import shutil
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from da_lightning.errors import DataError
from da_lightning.names import shown

log = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds without an answer or a byte
SECURE_TIMEOUT = 5.0  # of the first try by https, where the address says http
LONGEST_ANSWER = 120.0  # seconds until the head of an answer is there
SLOWEST = 1000.0  # bytes a second, over a minute
WINDOW = 60.0
ATTEMPTS = 10
PAUSE = 1.0  # seconds before the next attempt
REDIRECTS = 5
CHUNK = 2**18

_MOVED = (301, 302, 303, 307, 308)


class NoRoom(DataError):
    """The disk has too little room for a file that is otherwise fine."""


class _Refused(DataError):
    """An address or a redirect that is not followed."""


def download(url: str, file: Path, limit: int, is_checked: bool = False) -> None:
    """Download to ``file``, which appears once it is complete; ``<file>.part`` grows until then, over all tries.

    An ``http`` address is tried by https first.

    Args:
        url: An address of http or https.
        file: Where to.
        limit: Bytes that it may have.
        is_checked: Whether its checksum is known, so that it does not matter who has sent it.

    Raises:
        DataError: The server cannot be reached, refuses, keeps breaking off, changes its mind about the size, sends too
            much, or leads elsewhere than by http and https; or the disk has not enough room.
    """
    part = file.with_name(f"{file.name}.part")
    if _size(part) > limit:
        part.unlink()
    server = _Server(url, is_checked)
    total: int | None = None
    with Progress(
        TextColumn(escape(shown(file.name))),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task("", total=None)
        for _ in range(ATTEMPTS):
            claimed, is_whole = _receive(
                server, part, limit, lambda size, total: bar.update(task, completed=size, total=total)
            )
            if total not in (None, claimed):
                part.unlink(missing_ok=True)
                raise DataError(f"{url} has {total} bytes at one time and {claimed} at another: fetch it elsewhere.")
            if is_whole:
                with part.open("rb") as stream:
                    os.fsync(stream.fileno())
                part.rename(file)
                return
            total = claimed
            time.sleep(PAUSE)
    raise DataError(
        f"{url} broke off {ATTEMPTS} times, at last after {_size(part)} of {total or 'unknown'} bytes: run the same "
        "command again, it goes on from there."
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _receive(
    server: "_Server", part: Path, limit: int, report: Callable[[int, int | None], None]
) -> tuple[int | None, bool]:
    """Append to ``part`` what it lacks, or begin again where the server cannot continue.

    Returns:
        Size of the whole as the server has it (``None``: it does not say), and whether ``part`` is complete.
    """
    size, url = _size(part), server.url
    try:
        response = server.open({"Range": f"bytes={size}-"} if size else {})
    except HTTPError as error:
        error.close()
        if error.code != 416 or not size:  # range not satisfiable
            raise DataError(
                f"{url} answers {error.code} {error.reason}: fetch the data set elsewhere and unpack it to data.root."
            ) from error
        if error.headers.get("Content-Range") == f"bytes */{size}":
            return size, True
        part.unlink()
        return _receive(server, part, limit, report)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{url} cannot be reached ({getattr(error, 'reason', error)}): check the connection and run the same "
            "command again, or fetch the data set elsewhere and unpack it to data.root."
        ) from error
    with response:
        if response.status != 206:
            size = 0
        elif size and not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            part.unlink()
            return _receive(server, part, limit, report)
        total = None if response.length is None else size + response.length
        if total is not None:
            _check_size(url, total, limit)
            check_room(part, total - _size(part), url)
        with part.open("ab" if size else "wb") as out:
            begun, before = time.monotonic(), size
            while True:
                report(size, total)
                try:
                    chunk = response.read1(CHUNK)  # what is there, so that a trickle is seen
                except (OSError, HTTPException):
                    return total, False
                if not chunk:
                    return total, total in (None, size)
                size += out.write(chunk)
                if size > limit:
                    out.close()
                    part.unlink()
                    _check_size(url, size, limit)
                if (seconds := time.monotonic() - begun) > WINDOW:
                    if size - before < SLOWEST * seconds:
                        return total, False
                    begun, before = time.monotonic(), size


def _check_size(url: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{url} sends {size / 1e9:,.3g} GB or more, above the bound of {limit / 1e9:,.3g} GB: raise "
            "data.files.max_gb if you trust it, or fetch the data set elsewhere."
        )


def check_room(file: Path, size: int, what: str) -> None:
    """Check that the disk of ``file`` has room for ``size`` bytes.

    Raises:
        NoRoom: It has not.
    """
    free = shutil.disk_usage(file.parent).free
    if size > free:
        raise NoRoom(
            f"{what} needs {size / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free on the disk of {file.parent}: free "
            "some space, or let data.root lie on another disk."
        )


class _Server:
    """Answers for one address; by https if it can, and without a word if who answers does not matter."""

    def __init__(self, url: str, is_checked: bool) -> None:
        self.url, self.is_checked = url, is_checked
        self._secure = f"https{url[4:]}" if url.lower().startswith("http:") else None  # to be tried first
        self._address = url
        _check_scheme(url, "it")

    def open(self, headers: dict[str, str]) -> HTTPResponse:
        secure = self._secure
        if secure is not None:
            try:
                response = _opened(secure, headers, min(TIMEOUT, SECURE_TIMEOUT))
                self._address, self._secure = secure, None
                return response
            except HTTPError as error:
                error.close()
                if error.code == 416:
                    self._address, self._secure = secure, None
                    raise
            except (OSError, HTTPException, ValueError, _Refused):
                pass
        response = _opened(self._address, headers, TIMEOUT)
        if secure is not None and not self.is_checked:
            log.warning(
                "%s answers by http alone, and its SHA-256 is not known: whoever is between can change what comes. "
                "Compare it with another source, and set data.files.sha256.",
                self.url,
            )
        self._secure = None
        return response


def _check_scheme(url: str, what: str, came_from: str = "") -> None:
    scheme = urlsplit(url).scheme.lower()
    if scheme not in ("http", "https"):
        raise _Refused(f"{url}: {what} is no http or https address, and nothing else is fetched: give another url.")
    if came_from.lower().startswith("https:") and scheme == "http":
        raise _Refused(
            f"{came_from} leads from https down to {url}, where anybody can change what comes: fetch the data set "
            "elsewhere and unpack it to data.root."
        )


class _NoAutomaticRedirects(HTTPDefaultErrorHandler):
    """Raises; urllib's own handler follows to ftp, from https to http, and reads the body of a redirect to its end."""


def _opened(url: str, headers: dict[str, str], timeout: float) -> HTTPResponse:
    """The answer to ``url``, through at most `REDIRECTS` redirects."""
    opener = OpenerDirector()
    secure = HTTPSHandler(context=ssl.create_default_context())
    for handler in (ProxyHandler(), HTTPHandler(), secure, HTTPErrorProcessor(), _NoAutomaticRedirects()):
        opener.add_handler(handler)
    place = url
    for _ in range(REDIRECTS + 1):
        request = Request(place, headers={"User-Agent": "da-lightning", **headers})
        try:
            return _answer_in_time(opener, request, timeout)
        except HTTPError as error:
            to = error.headers.get("Location") if error.code in _MOVED else None
            if to is None:
                raise
            error.close()
            following = urljoin(place, to.strip().encode("latin-1", "replace").decode("utf-8", "replace"))
            _check_scheme(following, f"where {place} leads", place)
            place = following.replace(" ", "%20")
    raise _Refused(f"{url} leads on more than {REDIRECTS} times: fetch the data set elsewhere.")


def _answer_in_time(opener: OpenerDirector, request: Request, timeout: float) -> HTTPResponse:
    """A head that comes byte by byte would take for ever: the timeout of a socket is of each byte."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(opener.open(request, timeout=timeout))
        except BaseException as error:  # handed on to who waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=LONGEST_ANSWER)
    except queue.Empty:
        raise TimeoutError(f"no whole answer in {LONGEST_ANSWER:.0f} seconds") from None
    if isinstance(answer, BaseException):
        raise answer
    return cast(HTTPResponse, answer)
