"""Servers and archives that mean harm: bombs, redirects, trickles, full disks."""

import bz2
import errno
import gzip
import io
import logging
import lzma
import shutil
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from da_lightning.data import archives, transfer
from da_lightning.data.archives import unpack
from da_lightning.data.transfer import download
from da_lightning.errors import DataError

Answer = Callable[[BaseHTTPRequestHandler], None]
CONTENT = b"horses" * 1000


class Server:
    """Answers each path with a function.

    Attributes:
        asked: Paths so far.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.answers.get(self.path, body(CONTENT))(self)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_port
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def body(content: bytes, length: int | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def moved(to: str, code: int = 302) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", to)
        handler.end_headers()
        handler.wfile.write(b"endless " * 100)  # without a length, and never read

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(2**16))
    except OSError:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT", 2.0)
    monkeypatch.setattr(transfer, "SECURE_TIMEOUT", 0.5)
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server()
    yield server
    server.close()


def complaint(function: Callable, *arguments: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def url(server: Server, path: str = "/set.zip", scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}{path}"


# -- where it comes from -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_five_redirects_are_followed(tmp_path, server, code):
    server.answers |= {f"/{i}": moved(f"/{i + 1}" if i % 2 else url(server, f"/{i + 1}"), code) for i in range(5)}
    download(url(server, "/0"), tmp_path / "set", 10**6)
    assert (tmp_path / "set").read_bytes() == CONTENT and server.asked == [f"/{i}" for i in range(6)]


@pytest.mark.parametrize("to", ["/circle", "/0"])
def test_six_redirects_are_not(tmp_path, server, to):
    server.answers |= {f"/{i}": moved(f"/{i + 1}") for i in range(6)} | {"/circle": moved(to)}
    server.answers["/6"] = moved(to)
    assert "leads on more than 5 times" in complaint(download, url(server, "/0"), tmp_path / "set", 10**6)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "to", ["ftp://127.0.0.1/set.zip", "file:///etc/passwd", "data:,x", "gopher://x", "FTP://x/y", "javascript:x"]
)
def test_other_schemes_are_not_fetched(tmp_path, server, to):
    assert "no http or https address" in complaint(download, to, tmp_path / "set", 10**6)
    server.answers["/set.zip"] = moved(to)
    message = complaint(download, url(server), tmp_path / "set", 10**6)
    assert to.lower() in message.lower() and "no http or https address" in message
    assert not list(tmp_path.iterdir())


def opened(answers: dict[str, object], asked: list[str]) -> Callable:
    def answer(address: str, *_: object) -> object:
        asked.append(address.partition(":")[0])
        if isinstance(found := answers[asked[-1]], Exception):
            raise found
        return found

    return answer


def test_https_is_tried_first(monkeypatch, caplog):
    asked: list[str] = []
    monkeypatch.setattr(transfer, "_opened", opened({"https": "secure", "http": "plain"}, asked))
    known = transfer._Server("http://there/set.zip", is_checked=False)
    assert [known.open({}), known.open({})] == ["secure", "secure"] and asked == ["https", "https"]
    assert not caplog.records


@pytest.mark.parametrize("is_checked", [True, False])
def test_http_alone_is_a_warning_without_a_checksum(tmp_path, server, caplog, is_checked):
    with caplog.at_level(logging.WARNING):
        download(url(server), tmp_path / "set", 10**6, is_checked=is_checked)
    assert (tmp_path / "set").read_bytes() == CONTENT
    assert ("answers by http alone, and its SHA-256 is not known" in caplog.text) == (not is_checked)


@pytest.fixture
def secure(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(context)
    yield server
    server.close()


def test_a_secure_server_of_an_http_address(tmp_path, server, secure, caplog, monkeypatch):
    download(url(secure, scheme="http"), tmp_path / "set", 10**6)
    assert (tmp_path / "set").read_bytes() == CONTENT and not caplog.records
    secure.answers["/down"] = moved(url(server))
    message = complaint(download, url(secure, "/down", "https"), tmp_path / "down", 10**6)
    assert "from https down to http://127.0.0.1" in message and not server.asked
    server.answers["/up"] = moved(url(secure, scheme="https"))
    download(url(server, "/up"), tmp_path / "up", 10**6)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "cannot be reached" in complaint(download, url(secure, scheme="https"), tmp_path / "unknown", 10**6)


# -- how much ----------------------------------------------------------------------------------------------------------


def test_a_download_above_its_bound(tmp_path, server):
    server.answers["/endless"] = endless
    for path in ("/set.zip", "/endless"):
        message = complaint(download, url(server, path), tmp_path / "set", 5000)
        assert "above the bound of 5e-06 GB: raise data.files.max_gb" in message
        assert not list(tmp_path.iterdir())
    (tmp_path / "set.part").write_bytes(bytes(10**6))  # of an earlier try, with a larger bound
    download(url(server), tmp_path / "set", 6000)
    assert (tmp_path / "set").read_bytes() == CONTENT


def test_a_disk_without_room_is_seen_first(tmp_path, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, 10**6 - 1))
    server.answers["/set.zip"] = body(b"", 10**6)
    message = complaint(download, url(server), tmp_path / "set", 10**9)
    assert "needs 1.0 MB, and 1.0 MB are free" in message and not list(tmp_path.iterdir())
    (tmp_path / "a.zip").write_bytes(zipped({"a": bytes(2 * 10**6)}))
    assert "needs 2.0 MB" in complaint(unpack, tmp_path / "a.zip", tmp_path / "out", 10**9)
    (tmp_path / "a.tar").write_bytes(tar({"a": bytes(2 * 10**6)}))
    assert "needs 2.0 MB" in complaint(unpack, tmp_path / "a.tar", tmp_path / "out2", 10**9)


def test_a_trickle_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(transfer, "WINDOW", 0.1)
    over = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b"x")

    server.answers["/set.zip"] = trickle
    try:
        assert "broke off 3 times" in complaint(download, url(server), tmp_path / "set", 10**6)
    finally:
        over.set()


def test_a_head_that_comes_byte_by_byte_is_given_up(tmp_path, server, monkeypatch):
    monkeypatch.setattr(transfer, "LONGEST_ANSWER", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            while not over.is_set():
                connection, _ = listening.accept()
                while not over.wait(0.05):
                    try:
                        connection.send(b"H")
                    except OSError:
                        break

        threading.Thread(target=trickle, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/set.zip"
        message = complaint(download, address, tmp_path / "set", 10**6)
        over.set()
    assert "cannot be reached (no whole answer in" in message


# -- archives ----------------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tar(files: dict[str, bytes], mode: str = "w", **options: object) -> bytes:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode=mode, **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def refused(folder: Path, content: bytes, limit: int = 10**10) -> str:
    (folder / "a").write_bytes(content)
    message = complaint(unpack, folder / "a", folder / "out", limit)
    shutil.rmtree(folder / "out")
    return message


BOMB = {"zeros": bytes(3 * 10**6)}


@pytest.mark.parametrize("mode", ["zip", "w:gz", "w:bz2", "w:xz"])
def test_bombs(tmp_path, monkeypatch, mode):
    content = zipped(BOMB) if mode == "zip" else tar(BOMB, mode)
    assert "more than 0.001 GB when unpacked" in refused(tmp_path, content, 10**6)
    monkeypatch.setattr(archives, "SMALL", 10**6)
    assert "more than 100 times its own size when unpacked" in refused(tmp_path, content)
    monkeypatch.setattr(archives, "SMALL", 10**7)
    (tmp_path / "a").write_bytes(content)
    unpack(tmp_path / "a", tmp_path / "out", 10**7)
    assert (tmp_path / "out/zeros").stat().st_size == 3 * 10**6


def test_a_zip_that_lies_about_sizes(tmp_path):
    content = bytearray(zipped({"zeros": bytes(10**6)}))
    for magic, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        content[content.rindex(magic) + place :][:4] = b""
        start = content.rindex(magic) + place
        content[start : start + 4] = struct.pack("<I", 10)
    assert "cannot be unpacked" in refused(tmp_path, bytes(content))


def test_files_that_lie_over_each_other(tmp_path):
    content = bytearray(zipped({f"{i}": bytes(range(256)) * 9 for i in range(5)}))
    first = content.index(b"PK\x01\x02")
    place = first
    while (place := content.find(b"PK\x01\x02", place)) >= 0:  # all at the place of the first, and large
        content[place + 42 : place + 46] = b"\0\0\0\0"
        content[place + 20 : place + 24] = struct.pack("<I", first)
        place += 4
    assert "lie over each other" in refused(tmp_path, bytes(content))


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 50)
    files = {f"{i}": b"" for i in range(51)}
    for content in (zipped(files), tar(files)):
        assert "holds more than 50 files and folders" in refused(tmp_path, content)
    monkeypatch.setattr(archives, "_LARGEST_LIST", 100)
    assert "files and folders" in refused(tmp_path, zipped({f"{i}": b"" for i in range(9)}))


def test_heads_of_tar_members_are_bounded(tmp_path):
    """A name, or a record of it, of a gigabyte would be read into the memory at once."""
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("long")
        info.type, info.size = kind, 2**30
        assert "cannot be unpacked" in refused(tmp_path, gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**23)))


def test_files_with_holes_are_refused(tmp_path):
    if not shutil.which("tar"):
        pytest.skip("needs tar")
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(10**9)
    run = subprocess.run(["tar", "-cSf", "-", "holes"], cwd=tmp_path, capture_output=True)
    if run.returncode:
        pytest.skip("this tar knows no sparse files")
    assert len(run.stdout) < 10**5
    assert "a file with holes" in refused(tmp_path, run.stdout)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a/b": b"", "a/B/../b": b""}, "leads out of its folder"),
        ({"a": b"", "a/b": b""}, "is in it twice"),
        ({"a/b": b"", "a": b""}, "is in it twice"),
        ({"x" * 256: b""}, "has too long a name"),
        ({"d/" * 41 + "x": b""}, "lies too deep"),
        ({("d" * 200 + "/") * 15 + "x": b""}, "lies too deep"),
        ({".": b"x"}, "is in it twice"),
    ],
)
def test_names_that_do_harm(tmp_path, files, words):
    for content in (zipped(files), tar(files, format=tarfile.PAX_FORMAT)):
        assert words in refused(tmp_path, content)


def test_a_member_twice(tmp_path):
    twice = tar({"a": b"1"})[:1024] + tar({"a": b"2"})
    assert "is in it twice" in refused(tmp_path, twice)


def test_names_that_are_only_odd(tmp_path):
    names = ["Icon\r", "\x1b[31m", "é", "道路", " ", "-rf", "a%2e", "A", "a", "x" * 255]
    (tmp_path / "a").write_bytes(tar(dict.fromkeys(names, b"1") | {"caf\udce9": b"1"}, format=tarfile.GNU_FORMAT))
    unpack(tmp_path / "a", tmp_path / "out", 10**6)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "caf\udce9"}


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_damage_in_any_place_is_a_sentence(tmp_path, packed):
    content = packed(tar({f"{i}.bin": bytes(range(256)) * i for i in range(20)}))
    for place in range(0, len(content), max(1, len(content) // 12)):
        for damaged in (content[:place], content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]):
            (tmp_path / "a").write_bytes(damaged)
            try:
                unpack(tmp_path / "a", tmp_path / "out", 10**8)
            except DataError as error:
                assert "a cannot be unpacked" in str(error) or "refused" in str(error)
            shutil.rmtree(tmp_path / "out")


def test_a_disk_that_runs_full(tmp_path, monkeypatch):
    from da_lightning.data.downloads import _fill

    (tmp_path / "work").mkdir()
    (tmp_path / "work/set.zip").write_bytes(zipped({"a": b"1" * 1000, "b": b"2"}))

    def full(self: object, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives._Budget, "take", full)
    with pytest.raises(OSError, match="No space left"):
        _fill(tmp_path / "set", tmp_path / "work", "http://there/set.zip", None, 10**9)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["set.zip"], "whole, and kept for the next try"
