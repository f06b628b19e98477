"""Artifacts on disk: a folder that appears whole or not at all, with a ``meta.json`` that describes it.

Everything written here is a function of code, data and params alone: keys are sorted, tensors carry no
metadata (safetensors does not keep the order of more than one metadata key), and no time, run id or
absolute path goes in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spar_core.errors import SparError

META = "meta.json"
# Bytes that have to be free before work on an artifact begins.
ROOM = 16 * 2**20


def check_room(path: Path) -> None:
    """Make sure that an artifact can be written to ``path``, before hours are spent on what it is to hold.

    Raises:
        OSError: its folder cannot be made, or less than ``ROOM`` bytes are free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."):
        pass
    if shutil.disk_usage(path.parent).free < ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path.parent))


@contextmanager
def new_artifact(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends without an error.

    An older artifact at ``path`` is replaced. After an error, or a kill, nothing is left at ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if path.is_dir():
        shutil.rmtree(path)
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys and no NaN or infinity (both become ``null``)."""
    text = json.dumps(_finite(value), indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a SparError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SparError(f"{path} does not exist", "run the stage that writes it, or `dvc repro`") from None
    except json.JSONDecodeError:
        raise SparError(f"{path} is not valid JSON", "delete its folder and run `dvc repro`") from None


def write_meta(
    folder: Path,
    kind: str,
    *,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    shapes: Mapping[str, Any] | None = None,
    **extra: Any,
) -> None:
    """Write ``meta.json``: what the artifact is, the params it was made with, and digests of its inputs."""
    write_json(
        folder / META,
        {"kind": kind, "params": dict(params), "inputs": dict(inputs), "shapes": dict(shapes or {}), **extra},
    )


def read_meta(folder: Path, kind: str) -> dict[str, Any]:
    """Read the ``meta.json`` of an artifact of the given kind.

    Raises:
        SparError: there is no artifact, or it is of another kind.
    """
    if not folder.is_dir():
        raise SparError(f"{folder} does not exist", f"it should hold the {kind}: run `dvc repro`")
    meta: dict[str, Any] = read_json(folder / META)
    if meta.get("kind") != kind:
        raise SparError(f"{folder} holds a '{meta.get('kind')}', not a '{kind}'")
    return meta


def digest_bytes(data: bytes) -> str:
    """32 hex digits (MD5, as DVC uses): an identity, not a safeguard against tampering."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def digest_file(path: Path) -> str:
    """Digest of one file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def digest_folder(folder: Path) -> str:
    """Digest of every file of a folder, by relative path and content."""
    lines = [
        f"{digest_file(path)} {path.relative_to(folder).as_posix()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return digest_bytes("\n".join(lines).encode())


def digest_value(value: Any) -> str:
    """Digest of a JSON-like value."""
    return digest_bytes(json.dumps(_finite(value), sort_keys=True).encode())


def _finite(value: Any) -> Any:
    """Turn arrays and scalars of NumPy and Torch into plain values, and NaN or infinity into None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
