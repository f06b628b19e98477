"""The address of the project's MLflow store, and the store's lock file.

A store is either a SQLite file, which only processes of one machine share, or it is *shared*: a server, or a database
on a server, to which other projects and other machines may write at the same moment.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from spar_core.artifacts import digest_bytes
from stages.layout import main_root

DATABASE = "mlflow.db"
_SQLITE = "sqlite:///"


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI`` if it is set, else ``mlflow.db`` at the main project's root.

    A SQLite path is made absolute. A relative one counts from the main project's root, wherever the stage runs.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    base = main_root(root)
    if not uri:
        return sqlite_uri(base / DATABASE)
    path = sqlite_path(uri)
    if path is None:
        return uri
    _, mark, options = uri.partition("?")
    return sqlite_uri(base / path) + mark + options


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for a shared store."""
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])) if uri.startswith(_SQLITE) else None


def sqlite_uri(path: Path) -> str:
    """The URI of a SQLite file, in which SQLAlchemy decodes ``%`` and takes what follows ``?`` for options."""
    return _SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def is_server(uri: str) -> bool:
    """Whether a store is reached over HTTP."""
    return uri.startswith(("http://", "https://"))


def lock_file(uri: str) -> Path:
    """The file that this user's processes on this machine lock before they write to a store.

    The lock file of a SQLite database lies beside it. For a shared store, the file is named by the store's address, so
    that several clones of the project exclude each other.
    """
    database = sqlite_path(uri)
    if database:
        return Path(f"{database}.lock")
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"spar-mlflow-{user}" / f"{digest_bytes(uri.rstrip('/').encode())}.lock"


def without_password(text: str) -> str:
    """The text, with the user and password of every address replaced by ``***``."""
    return re.sub(r"//[^@/\s]*@", "//***@", text)
