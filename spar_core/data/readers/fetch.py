"""Files from the network, kept in the user's cache folder: resumed, checked, and never half-written.

A file is received into ``<name>.part``. If the transfer breaks off, the next call asks for the rest (HTTP Range),
on condition that the server's file is still the same one (If-Range, with what ``<name>.part.tag`` remembers).
The whole file gets its name in one step, and ``<name>.sha256`` beside it, in the format of ``sha256sum``: it is
checked at every use, so a cache that was damaged since is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import string
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_bytes
from spar_core.errors import SparError

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20  # bytes at most
LONGEST_NAME = 200  # bytes; file systems take 255, and what is kept beside a file has a longer name than it
NETWORK = (OSError, http.client.HTTPException)  # URLError, timeouts, resets and TLS errors are OSErrors


def cache_folder() -> Path:
    """``$SPAR_CACHE``, else ``spar`` in the user's cache folder."""
    if os.environ.get("SPAR_CACHE"):
        return Path(os.environ["SPAR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spar"


def cache_path(url: str) -> Path:
    """Where ``fetch`` keeps the file of a URL; a file put there by hand is taken as downloaded."""
    name = url.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    # The end says what kind of file it is; the digest tells files apart that have it in common.
    short = name.replace("\0", "").encode()[-LONGEST_NAME:].decode(errors="ignore")
    return cache_folder() / f"{digest_bytes(url.encode())[:8]}-{short}"


def check_sha256(path: Path, expected: str | None) -> None:
    """Compare a file's SHA-256 with the expected one, if any.

    Raises:
        SparError: they differ, or the file cannot be read.
    """
    if expected is not None:
        _compare(path, sha256_of(path), expected)


def fetch(url: str, sha256: str | None = None) -> Path:
    """Download ``url`` into the cache, unless it is there, and return the file.

    Several processes may ask for the same file at once: one of them downloads it.

    Args:
        url: ``http://``, ``https://`` or ``file://``.
        sha256: expected SHA-256 of the file, in hexadecimal digits.

    Raises:
        SparError: the URL is not valid, the server cannot be reached or refuses, the transfer breaks off (the
            next call goes on from there), the cache cannot be written, or the file is damaged or another one.
    """
    target = cache_path(url)
    if target.is_file():
        _check_cached(target, sha256)
        return target
    from filelock import FileLock

    with _disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f"{target.name}.lock")
        with FileLock(lock):
            try:
                if not target.is_file():  # another process may have fetched it meanwhile
                    _receive_whole(url, target, sha256)
            finally:
                lock.unlink(missing_ok=True)
    _check_cached(target, sha256)
    return target


def _receive_whole(url: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(f"{target.name}.part")
    _receive(url, part, target)
    found = sha256_of(part)
    _tag(part).unlink(missing_ok=True)
    if sha256 is not None and found != sha256:
        part.unlink()
        _compare(target, found, sha256)
    _write_digest(target, found)
    part.replace(target)


def _receive(url: str, part: Path, target: Path) -> None:
    """Bring ``part`` to the whole file, from where an earlier call broke off."""
    known = _tag(part).read_text(encoding="utf-8") if _tag(part).is_file() and part.is_file() else ""
    start = part.stat().st_size if known else 0
    with _network(url, target):
        answer = _open(url, start, known)
    if answer is None:
        return
    with answer:
        start = start if answer.status == 206 else 0
        tag = _validator(answer)
        if tag:
            _tag(part).write_text(tag, encoding="utf-8")
        else:
            _tag(part).unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if (length or "").isdecimal() else None
        reason = _copy(answer, part, start, total)
    size = part.stat().st_size
    if reason or (total is not None and size != total):
        hint = "run it again: it goes on from there" if tag else "run it again"
        of = f" of {total}" if total is not None else ""
        if not tag:
            part.unlink()  # without a tag the rest could be of another file
        raise SparError(f"{url} broke off after {size}{of} bytes{reason}", hint)


def _open(url: str, start: int, known: str) -> Any | None:
    """The server's answer: the rest from byte ``start`` (status 206) or the whole file; None if there is no rest."""
    # Identity: the length and the ranges should count the bytes of the file, not of a compressed transfer.
    headers = {"Accept-Encoding": "identity", "User-Agent": "spar"}
    rest = {"Range": f"bytes={start}-", "If-Range": known} if start else {}
    try:
        request = urllib.request.Request(_in_ascii(url), headers=headers | rest)
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        return _open(url, 0, "")
    status = getattr(answer, "status", None)
    if status == 206:
        continues = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        # Some servers send a range whatever If-Range says.
        if not continues or _validator(answer) not in ("", known):
            answer.close()
            return _open(url, 0, "")
    return answer


def _in_ascii(url: str) -> str:
    """A URL as it may be sent: what is not ASCII is encoded, as browsers do, and all else stays as it is."""
    if url.isascii():
        return url
    parts = urllib.parse.urlsplit(url)
    rest = (urllib.parse.quote(part, safe=string.punctuation) for part in (parts.path, parts.query, parts.fragment))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.encode("idna").decode("ascii"), *rest))


def _validator(answer: Any) -> str:
    """What identifies this version of the file to the server; empty if it says nothing that If-Range takes."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified", "")


def _copy(answer: Any, part: Path, start: int, total: int | None) -> str:
    """Write the answer's bytes behind the first ``start``; return why the network ended it early, if it did."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with (
        part.open("r+b" if start else "wb") as handle,
        tqdm(
            total=total,
            initial=start,
            desc=part.stem,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=terminal,
            ncols=None if terminal else 100,
            mininterval=0.2 if terminal else 10.0,
            file=sys.stderr,
        ) as bar,
    ):
        handle.seek(start)
        while True:
            try:
                chunk = answer.read1(CHUNK)  # what has come, so that nothing of it is lost if the rest does not
            except NETWORK as error:
                return f" ({getattr(error, 'reason', error)})"
            if not chunk:
                return ""
            handle.write(chunk)
            bar.update(len(chunk))


def _check_cached(target: Path, sha256: str | None) -> None:
    """Compare a cached file with the digest beside it, and with the expected one; write the digest if it is missing."""
    found = sha256_of(target)
    beside = target.with_name(f"{target.name}.sha256")
    noted = beside.read_text(encoding="utf-8").split() if beside.is_file() else []
    if noted and noted[0] != found:
        raise SparError(
            f"the cached file {target} is damaged: its SHA-256 is not the one it was downloaded with",
            f"delete it and {beside.name}, then run this again",
        )
    if sha256 is not None:
        _compare(target, found, sha256)
    if not noted:
        with suppress(OSError):  # a file put there by hand, perhaps into a shared folder that is not ours to write
            _write_digest(target, found)


def _write_digest(target: Path, digest: str) -> None:
    draft = target.with_name(f"{target.name}.sha256.draft-{os.getpid()}")
    draft.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    draft.replace(target.with_name(f"{target.name}.sha256"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        SparError: it cannot be read, or is a folder.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise SparError(
            f"{path} cannot be read ({error.strerror or error})", "it must be a file that you may read"
        ) from None


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise SparError(
            f"{path.name} has SHA-256 {found[:12]}..., but the entry expects {expected[:12]}...",
            f"the file is damaged or another one; delete {path} and fetch it again, or correct 'sha256' in the entry",
        )


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


@contextmanager
def _network(url: str, target: Path) -> Iterator[None]:
    """Turn what the network does into one line that also says how to do without it."""
    instead = f"put the file at {target}, or give it as 'path' in the entry"
    try:
        yield
    except urllib.error.HTTPError as error:
        what = f"{url} cannot be fetched: the server says {error.code} {error.reason}"
        raise SparError(what, f"if you have it from elsewhere, {instead}") from None
    except (ValueError, http.client.InvalidURL) as error:  # what no URL may look like
        raise SparError(f"'{url}' is not a valid URL ({error})", "correct 'url' in the dataset's entry") from None
    except NETWORK as error:
        reason = getattr(error, "reason", error)
        raise SparError(f"{url} cannot be fetched ({reason})", f"check the network, or {instead}") from None


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room and run this again (what is there is kept), or set SPAR_CACHE to a folder elsewhere"
            raise SparError(f"the disk of the cache folder {folder} is full", hint) from None
        raise SparError(
            f"the cache folder {folder} cannot be written ({error.strerror or error})",
            "set SPAR_CACHE to a folder that can",
        ) from None
