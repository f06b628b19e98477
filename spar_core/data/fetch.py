"""Files from the network, kept in the user's cache folder, checked, and never half-written."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from spar_core.artifacts import digest_bytes
from spar_core.errors import SparError

TIMEOUT = 30.0  # seconds without an answer


def cache_folder() -> Path:
    """``$SPAR_CACHE``, else ``spar`` in the user's cache folder."""
    if os.environ.get("SPAR_CACHE"):
        return Path(os.environ["SPAR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spar"


def check_sha256(path: Path, expected: str | None) -> None:
    """Compare a file's SHA-256 with the expected one, if any.

    Raises:
        SparError: they differ.
    """
    if expected is None:
        return
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise SparError(
            f"{path.name} has SHA-256 {found[:12]}..., but the entry expects {expected[:12]}...",
            "the file is damaged or another one; fetch it again or correct 'sha256' in the entry",
        )


def fetch(url: str, sha256: str | None = None) -> Path:
    """Download ``url`` into the cache, unless it is there, and return the file.

    Raises:
        SparError: the server cannot be reached or refuses, the transfer breaks off, or the file is not the
            expected one (it is then removed).
    """
    name = url.rstrip("/").rsplit("/", 1)[-1]
    target = cache_folder() / f"{digest_bytes(url.encode())[:8]}-{name}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            _download(url, draft)
            check_sha256(draft, sha256)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    check_sha256(target, sha256)
    return target


def _download(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as handle:
            shutil.copyfileobj(answer, handle, 1 << 20)
            expected = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise SparError(f"{url} cannot be fetched: the server says {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise SparError(
            f"{url} cannot be fetched ({reason})",
            "check the network, or fetch the file by other means and give it as 'path' in the entry",
        ) from None
    if expected is not None and int(expected) != target.stat().st_size:
        raise SparError(f"{url} broke off after {target.stat().st_size} of {expected} bytes", "try again")
