"""Where the project's MLflow store is, and which lock file goes with it. Cosmetic.

A store is either a SQLite file, which only processes of one machine share, or it is *shared*: a server, or a
database on one, to which other projects and other machines may write at the same moment.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from spar_core.artifacts import digest_bytes

_EXPERIMENTS_DIR = (".dvc", "tmp", "exps")


def main_root(root: Path) -> Path:
    """The project's root, also from within the worktrees of ``dvc exp run --temp`` and ``--queue``."""
    parts = root.resolve().parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == _EXPERIMENTS_DIR:
            return Path(*parts[:index])
    return root.resolve()


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI`` where it is set, else ``mlflow.db`` at the main project's root, both absolute.

    A relative SQLite path of the variable counts from the main project's root, not from the directory that
    a stage happens to run in.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    base = main_root(root)
    if not uri:
        return f"sqlite:///{base / 'mlflow.db'}"
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{base / path}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, or None for a shared store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def is_server(uri: str) -> bool:
    """Whether a store is reached over HTTP."""
    return uri.startswith(("http://", "https://"))


def lock_file(uri: str) -> Path:
    """The file that this user's processes on this machine lock before they write to a store.

    It lies beside a SQLite database. For a shared store it is named by the store's address, so that several clones
    of the project exclude each other.
    """
    database = sqlite_path(uri)
    if database:
        return Path(f"{database}.lock")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"spar-mlflow-{user}" / f"{digest_bytes(uri.rstrip('/').encode())}.lock"


def without_password(text: str) -> str:
    """A text with the user and password of every address in it replaced."""
    return re.sub(r"//[^@/\s]*@", "//***@", text)
