"""Downloads against a real server that serves ranges, ignores them, cuts connections, or changes the file."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spar_core.data.readers.fetch import cache_path, fetch
from spar_core.errors import SparError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 300_000  # bytes after which a cutting server hangs up


class Server(ThreadingHTTPServer):
    """Serves one file, as the flags say; ``ranges`` holds the Range header of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.modified = self.length = ""
        self.serves_ranges = self.heeds_if_range = self.says_length = True
        self.cuts = self.status = self.delay = 0
        self.ranges: list[str] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/file.hdf5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        server.ranges.append(asked)
        server.paths.append(self.path)
        if server.status:
            self.send_error(server.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.serves_ranges else 0
        if server.heeds_if_range and self.headers.get("If-Range") not in (None, server.etag, server.modified):
            start = 0
        total = len(server.content)
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)):
            if value:
                self.send_header(name, value)
        body = server.content[start:]
        if server.says_length:
            self.send_header("Content-Length", server.length or str(len(body)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[:CUT]
        self.wfile.write(body[: len(body) // 2])
        time.sleep(server.delay)
        self.wfile.write(body[len(body) // 2 :])
        self.close_connection = True


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def names(server: Server) -> set[str]:
    """What lies in the cache, without the file's own name in front."""
    target = cache_path(server.url)
    return {path.name.removeprefix(target.name) for path in target.parent.iterdir()}


def refused(server: Server, match: str, sha256: str | None = None) -> str:
    with pytest.raises(SparError, match=match) as error:
        fetch(server.url, sha256)
    assert "\n" not in str(error.value)
    return str(error.value)


def cut_once(server: Server) -> None:
    server.cuts = 1
    refused(server, f"broke off after {CUT} of {len(CONTENT)} bytes; run the command again to resume it")
    assert names(server) == {".part", ".part.tag"}


def test_whole_file_and_its_digest(server):
    path = fetch(server.url)
    assert path == cache_path(server.url) and path.read_bytes() == CONTENT
    assert names(server) == {"", ".sha256"}
    assert (path.with_name(f"{path.name}.sha256")).read_text() == f"{SHA256}  {path.name}\n"
    server.status = 500  # what is there needs no server
    assert fetch(server.url, SHA256) == path
    assert server.ranges == [""]


@pytest.mark.parametrize(("etag", "modified"), [('"one"', ""), ('W/"one"', "Mon, 01 Jan 2024 00:00:00 GMT")])
def test_goes_on_where_it_broke_off(server, etag, modified):
    server.etag, server.modified = etag, modified
    cut_once(server)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={CUT}-"] and names(server) == {"", ".sha256"}


def test_breaks_off_twice(server):
    cut_once(server)
    server.cuts = 1
    refused(server, f"broke off after {2 * CUT} of {len(CONTENT)} bytes")
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={CUT}-", f"bytes={2 * CUT}-"]


def test_server_that_falls_silent(server, monkeypatch):
    monkeypatch.setattr("spar_core.data.readers.fetch.TIMEOUT", 0.2)
    server.delay = 1.0
    refused(server, r"broke off after \d+ of .* bytes .*timed out.; run the command again to resume it")
    server.delay = 0
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.ranges[1].startswith("bytes=")


def test_server_that_ignores_ranges(server):
    cut_once(server)
    server.serves_ranges = False
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("heeds", [True, False])
def test_file_that_changed_meanwhile_is_fetched_anew(server, heeds):
    cut_once(server)
    server.content, server.etag, server.heeds_if_range = CONTENT[::-1], '"two"', heeds
    assert fetch(server.url).read_bytes() == CONTENT[::-1]


def test_shorter_file_than_before(server):
    cut_once(server)
    server.content, server.heeds_if_range, server.etag = b"short", False, '"two"'
    assert fetch(server.url).read_bytes() == b"short"


def test_interrupted_between_the_last_byte_and_the_name(server):
    cut_once(server)
    target = cache_path(server.url)
    target.with_name(f"{target.name}.part").write_bytes(CONTENT)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={len(CONTENT)}-"


def test_without_a_tag_it_starts_again(server):
    server.etag, server.cuts = "", 1
    refused(server, "broke off .* run the command again$")
    assert names(server) == set()
    assert fetch(server.url).read_bytes() == CONTENT
    assert server.ranges == ["", ""]


def test_server_that_says_no_length(server):
    server.says_length = False
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_another_file_than_expected(server):
    refused(server, "has SHA-256 .* but the entry expects 000000000000", "0" * 64)
    assert names(server) == set()
    fetch(server.url)
    assert str(cache_path(server.url)) in refused(server, "delete", "0" * 64)


def test_damaged_cache_names_the_file(server):
    path = fetch(server.url)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert f"delete it and {path.name}.sha256" in refused(server, f"{path} is damaged")
    path.unlink()
    path.with_name(f"{path.name}.sha256").unlink()
    assert fetch(server.url).read_bytes() == CONTENT


def test_file_put_there_by_hand(server):
    server.status = 404
    path = cache_path(server.url)
    assert f"put the file at {path}" in refused(server, "the server says 404")
    path.write_bytes(CONTENT)
    assert fetch(server.url, SHA256) == path and names(server) == {"", ".sha256"}
    path.write_bytes(b"changed")
    refused(server, "is damaged")


@pytest.mark.parametrize("status", [404, 500])
def test_server_that_refuses(server, status):
    server.status = status
    refused(server, f"the server says {status}")
    assert names(server) == set()


def test_offline_names_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    url = "http://127.0.0.1:9/x.hdf5"
    with pytest.raises(SparError, match=r"cannot be fetched .* check the network, or put the file at") as error:
        fetch(url)
    assert str(cache_path(url)) in str(error.value) and "'path' in the entry" in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[bad", "'http://.bad' is not a valid URL .*; correct 'url'"),
        ("http://[bad/\N{GREEK SMALL LETTER ALPHA}.hdf5", "is not a valid URL"),
        ("http://127.0.0.1:port/x.hdf5", "is not a valid URL .*port"),
        ("http://127.0.0.1/a b.hdf5", "is not a valid URL"),
        ("http://127.0.0.1/a\0b.hdf5", "is not a valid URL"),
        ("http://" + "a" * 70 + "\N{GREEK SMALL LETTER ALPHA}.org/x.hdf5", "is not a valid URL"),
    ],
)
def test_no_url(tmp_path, monkeypatch, url, message):
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SparError, match=message) as error:
        fetch(url)
    assert "\n" not in str(error.value)


def test_url_that_is_not_ascii(server):
    assert fetch(f"{server.url}/M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller%20x.hdf5?a=b").read_bytes() == CONTENT
    assert server.paths == ["/some/file.hdf5/M%C3%BCller%20x.hdf5?a=b"]


def test_names_of_any_length(server):
    """A name that the file system would not take loses its beginning, and nothing of a shorter one is lost."""
    assert cache_path("http://a.org/b/door-human.hdf5?x=y").name[8:] == "-door-human.hdf5"
    letter = "\N{GREEK SMALL LETTER ALPHA}"
    for name in ("a" * 400, letter * 300):
        path = fetch(f"{server.url}/{name}.hdf5")
        assert path.read_bytes() == CONTENT and path.name.endswith(f"{name[:50]}.hdf5")
    assert cache_path(f"{server.url}/1{'a' * 400}") != cache_path(f"{server.url}/2{'a' * 400}")


def test_server_that_says_no_number_as_length(server):
    server.length = "many"
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_full_disk(server):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    target = cache_path(server.url)
    target.parent.mkdir()
    target.with_name(f"{target.name}.part").symlink_to("/dev/full")
    refused(server, "the disk of the cache folder .* is full; free space")


def test_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "file" / "cache"))
    refused(server, "cache folder .* cannot be written .* set SPAR_CACHE")
    if os.geteuid():  # root may write everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        monkeypatch.setenv("SPAR_CACHE", str(tmp_path / "locked"))
        refused(server, "cannot be written .Permission denied")


def _fetch(url: str, results: multiprocessing.Queue) -> None:
    results.put(hashlib.sha256(fetch(url).read_bytes()).hexdigest())


def test_processes_at_once_download_it_once(server):
    server.delay = 1.5  # so that all of them have started before the first is done
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_fetch, args=(server.url, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert {results.get(timeout=60) for _ in processes} == {SHA256}
    for process in processes:
        process.join()
    assert server.ranges == [""] and names(server) == {"", ".sha256"}
