"""Download files into the user's cache folder, resume broken transfers, and check the files.

A file is received into ``<name>.part``. If the transfer breaks off, the next call requests the rest (HTTP Range), but
only if the server's file is still the same (HTTP If-Range, with the tag that is kept in ``<name>.part.tag``). A file
that is complete is renamed to its final name in one step. Its SHA-256 is kept beside it in ``<name>.sha256``, in the
format of ``sha256sum``, and compared at every use, so a file that was damaged later is noticed.
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

TIMEOUT = 30.0  # seconds to wait for an answer
CHUNK = 1 << 20  # bytes read at a time, at most
LONGEST_NAME = 200  # bytes; file systems allow 255, and the files beside a download have longer names
NETWORK = (OSError, http.client.HTTPException)  # URLError, timeouts, resets and TLS errors are OSErrors.


def cache_folder() -> Path:
    """The folder ``$SPAR_CACHE``; if that is not set, ``spar`` in the user's cache folder."""
    if os.environ.get("SPAR_CACHE"):
        return Path(os.environ["SPAR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spar"


def cache_path(url: str) -> Path:
    """The path at which :func:`fetch` keeps the file of a URL; a file put there by hand counts as downloaded."""
    name = url.split("?", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    # The end of the name shows the kind of file, and the digest separates URLs with equal names.
    short = name.replace("\0", "").encode()[-LONGEST_NAME:].decode(errors="ignore")
    return cache_folder() / f"{digest_bytes(url.encode())[:8]}-{short}"


def check_sha256(path: Path, expected: str | None) -> None:
    """Compare a file's SHA-256 with the expected one; None skips the check.

    Raises:
        SparError: the two differ, or the file cannot be read.
    """
    if expected is not None:
        _compare(path, sha256_of(path), expected)


def fetch(url: str, sha256: str | None = None) -> Path:
    """Download ``url`` into the cache, unless it is there already, and return the path of the file.

    Several processes may call this for the same URL at once; one of them downloads the file.

    Args:
        url: an ``http://``, ``https://`` or ``file://`` address.
        sha256: expected SHA-256 of the file, 64 hexadecimal digits; None skips the check.

    Raises:
        SparError: the URL is not valid, the server cannot be reached or refuses, the transfer breaks off (the next call
            resumes it), the cache folder cannot be written, or the file's SHA-256 is not the expected one.
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
    """Download into ``part``, resuming an earlier transfer if possible, until it holds the whole file."""
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
        hint = "run the command again to resume it" if tag else "run the command again"
        of = f" of {total}" if total is not None else ""
        if not tag:
            part.unlink()  # Without a tag, the rest could come from another version of the file.
        raise SparError(f"the download of {url} broke off after {size}{of} bytes{reason}", hint)


def _open(url: str, start: int, known: str) -> Any | None:
    """Request a file.

    Args:
        url: its address.
        start: first byte to request.
        known: tag of the version that the bytes before ``start`` belong to.

    Returns:
        An answer with the bytes from ``start`` (status 206), or with the whole file; None if no bytes are missing.
    """
    # Without compression ("identity"), lengths and ranges count the bytes of the file itself.
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
        # Some servers ignore If-Range and send a range of another version.
        if not continues or _validator(answer) not in ("", known):
            answer.close()
            return _open(url, 0, "")
    return answer


def _in_ascii(url: str) -> str:
    """Encode the characters of a URL that are not ASCII, as browsers do; all others stay unchanged."""
    if url.isascii():
        return url
    parts = urllib.parse.urlsplit(url)
    rest = (urllib.parse.quote(part, safe=string.punctuation) for part in (parts.path, parts.query, parts.fragment))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.encode("idna").decode("ascii"), *rest))


def _validator(answer: Any) -> str:
    """The tag of this version of the file, for If-Range; empty if the server sends none that If-Range accepts."""
    etag = str(answer.headers.get("ETag", ""))
    if etag and not etag.startswith("W/"):
        return etag
    return str(answer.headers.get("Last-Modified", ""))


def _copy(answer: Any, part: Path, start: int, total: int | None) -> str:
    """Write the answer's bytes to ``part`` after the first ``start``; return the network's error, or "" without one."""
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
                chunk = answer.read1(CHUNK)  # what has arrived, so that it is kept if the transfer breaks off
            except NETWORK as error:
                return f" ({getattr(error, 'reason', error)})"
            if not chunk:
                return ""
            handle.write(chunk)
            bar.update(len(chunk))


def _check_cached(target: Path, sha256: str | None) -> None:
    """Compare a cached file with the digest kept beside it and with the expected one; keep its digest if none is."""
    found = sha256_of(target)
    beside = target.with_name(f"{target.name}.sha256")
    noted = beside.read_text(encoding="utf-8").split() if beside.is_file() else []
    if noted and noted[0] != found:
        raise SparError(
            f"the cached file {target} is damaged: its SHA-256 has changed since the download",
            f"delete it and {beside.name}, then run the command again",
        )
    if sha256 is not None:
        _compare(target, found, sha256)
    if not noted:
        with suppress(OSError):  # The file may have been put by hand into a folder that this user cannot write to.
            _write_digest(target, found)


def _write_digest(target: Path, digest: str) -> None:
    draft = target.with_name(f"{target.name}.sha256.draft-{os.getpid()}")
    draft.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    draft.replace(target.with_name(f"{target.name}.sha256"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        SparError: the file cannot be read, or is a folder.
    """
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise SparError(
            f"{path} cannot be read ({error.strerror or error})", "check that it is a file that you may read"
        ) from None


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise SparError(
            f"{path.name} has SHA-256 {found[:12]}..., but the entry expects {expected[:12]}...: "
            "the file is damaged or another one",
            f"delete {path} and fetch it again, or correct 'sha256' in the entry",
        )


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


@contextmanager
def _network(url: str, target: Path) -> Iterator[None]:
    """Turn a network error into one line, which also says how to get the dataset without the network."""
    instead = f"put the file at {target}, or give it as 'path' in the entry"
    try:
        yield
    except urllib.error.HTTPError as error:
        what = f"{url} cannot be fetched: the server says {error.code} {error.reason}"
        raise SparError(what, f"check 'url' in the entry; if you have the file from elsewhere, {instead}") from None
    except (ValueError, http.client.InvalidURL) as error:
        raise SparError(f"'{url}' is not a valid URL ({error})", "correct 'url' in the dataset's entry") from None
    except NETWORK as error:
        reason = getattr(error, "reason", error)
        raise SparError(f"{url} cannot be fetched ({reason})", f"check the network, or {instead}") from None


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn an error of a full or read-only disk into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = (
                "free space and run the command again, which resumes the download, or set SPAR_CACHE to another folder"
            )
            raise SparError(f"the disk of the cache folder {folder} is full", hint) from None
        raise SparError(
            f"the cache folder {folder} cannot be written ({error.strerror or error})",
            "set SPAR_CACHE to a folder that you may write to",
        ) from None
