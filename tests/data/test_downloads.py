"""Downloads from a server on this machine that misbehaves in every way it can."""

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from da_lightning.data import transfer
from da_lightning.data.downloads import Fetched
from da_lightning.errors import DataError

FILES = {"set/trainA/1.txt": b"horse" * 5000, "set/trainB/deep/2.txt": b"zebra" * 7000, "set/empty.txt": b""}


class Server:
    """Serves ``content`` at any path.

    Attributes:
        breaks: After how many bytes of its body each of the next answers breaks off.
        ranges: Whether it can go on where a client stopped.
        claims: Content-Length that it pretends.
        length: Whether it says a length at all.
        asked: Range headers so far.
    """

    def __init__(self) -> None:
        self.content, self.breaks, self.ranges, self.status = b"", [], True, 200
        self.claims: int | None = None
        self.says_length = True
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/some/where/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"]
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        whole = self.claims or len(self.content)
        if start >= len(self.content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else self.status)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if self.says_length:
            handler.send_header("Content-Length", str(whole - start))
        handler.end_headers()
        stop = start + self.breaks.pop(0) if self.breaks else None
        handler.wfile.write(self.content[start:stop])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT", 2.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def tar(files: dict[str, bytes] = FILES, mode: str = "w:gz", *extra: tarfile.TarInfo) -> bytes:
    with tarfile.open(fileobj=(out := io.BytesIO()), mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o4777
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def zipped(files: dict[str, bytes] = FILES, **modes: int) -> bytes:
    with zipfile.ZipFile(out := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name, 0) << 16
            archive.writestr(info, content)
    return out.getvalue()


def holds(folder: str | Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*")}
    return {f"set/{name}": path.read_bytes() for name, path in found.items() if path.is_file()}


def complaint(folder: Path, url: str, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        Fetched(folder, url, download=True, **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert not folder.exists()
    return message


# -- what should work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.tar.gz", tar()),
        ("set.tar", tar(mode="w")),
        ("set.tar.xz", tar(mode="w:xz")),
        ("set.zip", zipped()),
        ("set", zipped()),
    ],
)
def test_archives_become_the_folder(tmp_path, server, name, content):
    server.content = content
    folder = tmp_path / "deep" / "horses"
    digest = hashlib.sha256(content).hexdigest()
    assert Fetched(folder, server.url(name), download=True, sha256=digest.upper()).folder == str(folder)
    assert holds(folder) == FILES
    assert sorted(path.name for path in folder.parent.iterdir()) == ["horses"]
    assert not stat.S_IMODE((folder / "trainA/1.txt").stat().st_mode) & 0o4111, "permissions are not the archive's"
    Fetched(folder, server.url(name), download=True)
    Fetched(folder, "http://nowhere.invalid/set.zip")
    assert len(server.asked) == 1


def test_several_top_folders_and_an_empty_folder(tmp_path, server):
    server.content = tar({name.removeprefix("set/"): content for name, content in FILES.items()})
    (tmp_path / "set").mkdir()
    Fetched(tmp_path / "set", server.url("set.tar.gz"), download=True)
    assert holds(tmp_path / "set") == FILES


def test_what_is_there_is_left_alone(tmp_path, server):
    (tmp_path / "mine.txt").write_text("mine")
    Fetched(tmp_path, server.url("set.zip"), download=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"] and not server.asked


def test_a_broken_connection_is_resumed(tmp_path, server):
    server.content = zipped()
    server.breaks = [100, 200, 1]
    Fetched(tmp_path / "set", server.url("set.zip"), download=True)
    assert server.asked == [None, "bytes=100-", "bytes=300-", "bytes=301-"]
    assert holds(tmp_path / "set") == FILES


def test_a_later_run_goes_on(tmp_path, server, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    server.content = zipped()
    server.breaks = [100, 50]
    message = complaint(tmp_path / "set", server.url("set.zip"))
    assert f"broke off 2 times, at last after 150 of {len(server.content)} bytes" in message
    assert (tmp_path / "set.download/set.zip.part").stat().st_size == 150
    Fetched(tmp_path / "set", server.url("set.zip"), download=True)
    assert server.asked[-1] == "bytes=150-" and holds(tmp_path / "set") == FILES


@pytest.mark.parametrize("says_length", [True, False])
def test_a_server_that_cannot_resume_begins_anew(tmp_path, server, says_length):
    server.content, server.ranges, server.says_length = zipped(), False, says_length
    server.breaks = [300, 100] if says_length else []
    Fetched(tmp_path / "set", server.url("set.zip"), download=True)
    assert server.asked == ([None, "bytes=300-", "bytes=100-"] if says_length else [None])
    assert holds(tmp_path / "set") == FILES


def test_a_part_that_is_already_whole_or_of_another_file(tmp_path, server):
    server.content = zipped()
    for part in (server.content, server.content + b"more"):
        folder = tmp_path / str(len(part))
        work = folder.with_name(f"{folder.name}.download")
        work.mkdir()
        (work / "set.zip.part").write_bytes(part)
        Fetched(folder, server.url("set.zip"), download=True)
        assert holds(folder) == FILES
    assert server.asked == [f"bytes={len(server.content)}-", f"bytes={len(server.content) + 4}-", None]


def test_an_interrupted_unpacking_begins_anew(tmp_path, server):
    server.content = zipped()
    work = tmp_path / "set.download"
    (work / "unpacked/set").mkdir(parents=True)
    (work / "unpacked/half.txt").write_text("half")
    (work / "set.zip").write_bytes(server.content)
    Fetched(tmp_path / "set", server.url("set.zip"), download=True)
    assert holds(tmp_path / "set") == FILES and not server.asked


def test_processes_wait_for_each_other(tmp_path, server):
    server.content = zipped()
    wanted = (tmp_path / "set", server.url("set.zip"), True)
    threads = [threading.Thread(target=Fetched, args=wanted) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and holds(tmp_path / "set") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


# -- what must not -----------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_unless_asked(tmp_path, server):
    with pytest.raises(DataError, match=r"data\.download=true.*http://.*set\.zip"):
        Fetched(tmp_path / "set", server.url("set.zip"))
    with pytest.raises(DataError, match="is empty"):
        Fetched(tmp_path, server.url("set.zip"))
    assert not server.asked and not list(tmp_path.iterdir())


def test_a_length_that_is_too_large(tmp_path, server):
    server.content = zipped()
    server.claims = len(server.content) + 10
    message = complaint(tmp_path / "set", server.url("set.zip"))
    assert f"has {server.claims} bytes at one time and {len(server.content)} at another" in message


def test_a_length_that_is_too_large_without_resuming(tmp_path, server):
    server.content, server.ranges = zipped(), False
    server.claims = len(server.content) + 10
    assert f"after {len(server.content)} of {server.claims} bytes" in complaint(tmp_path / "set", server.url("set.zip"))
    assert len(server.asked) == transfer.ATTEMPTS


@pytest.mark.parametrize(
    ("name", "content"), [("set.zip", zipped()), ("set.tar.gz", tar()), ("set.tar", tar(mode="w"))]
)
def test_a_length_that_is_too_small(tmp_path, server, name, content):
    server.content, server.claims = content, len(content) * 2 // 3
    assert f"{name} cannot be unpacked" in complaint(tmp_path / "set", server.url(name))
    assert not (tmp_path / f"set.download/{name}").exists(), "the next try must fetch it anew"


def test_another_file_than_expected(tmp_path, server):
    server.content = zipped()
    message = complaint(tmp_path / "set", server.url("set.zip"), sha256="0" * 64)
    assert hashlib.sha256(server.content).hexdigest() in message
    server.content = b"<html>please log in</html>"
    assert "no tar or zip archive" in complaint(tmp_path / "set", server.url("set.zip"))


def test_a_damaged_archive(tmp_path, server):
    content = bytearray(tar({"set/noise.bin": hashlib.shake_256(b"").digest(50_000)}))
    content[20_000] ^= 255
    server.content = bytes(content)
    assert "cannot be unpacked" in complaint(tmp_path / "set", server.url("set.tar.gz"))


def link(name: str, kind: bytes, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


SYMLINK = stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    ("name", "content", "member"),
    [
        ("a.tar.gz", tar({"../evil.txt": b"x"}), "../evil.txt"),
        ("a.tar.gz", tar({"set/../../evil.txt": b"x"}), "set/../../evil.txt"),
        ("a.tar.gz", tar({"/tmp/evil.txt": b"x"}), "/tmp/evil.txt"),
        ("a.tar.gz", tar(FILES, "w:gz", link("set/out", tarfile.SYMTYPE, "/etc")), "set/out"),
        ("a.tar.gz", tar(FILES, "w:gz", link("set/in", tarfile.SYMTYPE, "trainA")), "set/in"),
        ("a.tar.gz", tar(FILES, "w:gz", link("set/hard", tarfile.LNKTYPE, "/etc/passwd")), "set/hard"),
        ("a.tar.gz", tar(FILES, "w:gz", link("set/pipe", tarfile.FIFOTYPE, "")), "set/pipe"),
        ("a.zip", zipped({"../evil.txt": b"x"}), "../evil.txt"),
        ("a.zip", zipped({"set/../../evil.txt": b"x"}), "set/../../evil.txt"),
        ("a.zip", zipped({"..\\evil.txt": b"x"}), "..\\evil.txt"),
        ("a.zip", zipped({"/evil.txt": b"x"}), "/evil.txt"),
        ("a.zip", zipped({"C:\\evil.txt": b"x"}), "C:\\evil.txt"),
        ("a.zip", zipped({"link": b"/etc/passwd"}, link=SYMLINK), "link"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, server, name, content, member):
    server.content = content
    message = complaint(tmp_path / "home" / "set", server.url(name))
    assert repr(member) in message and "refused" in message
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path in written if "evil" in path or path.endswith(name)]
    assert all(path.startswith(("home/set.download/", "home/set.lock")) for path in written)
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_servers_that_are_not_there(tmp_path, server, monkeypatch):
    server.status = 404
    assert "answers 404 Not Found" in complaint(tmp_path / "set", server.url("set.zip"))
    gone = server.url("set.zip")
    server.http.shutdown()
    server.http.server_close()
    assert "cannot be reached" in complaint(tmp_path / "set", gone)
    assert "cannot be reached" in complaint(tmp_path / "set", "http://nowhere.invalid/set.zip")
    assert "no http or https address" in complaint(tmp_path / "set", "horse2zebra.zip")


def test_a_server_that_falls_silent(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.zip"
        assert "cannot be reached (timed out)" in complaint(tmp_path / "set", url)


def test_a_folder_that_cannot_be_written(tmp_path, server):
    (tmp_path / "file").write_text("")
    assert "cannot be filled" in complaint(tmp_path / "file" / "set", server.url("set.zip"))
