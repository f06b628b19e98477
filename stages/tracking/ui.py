"""Open the MLflow UI of the project's store: `python -m stages.tracking.ui`, which `make ui` calls.

Arguments go to `mlflow ui`: `--port 5001`. A server has a UI of its own, whose address is printed instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spar_core.errors import SparError
from stages.layout import Layout
from stages.tracking.place import sqlite_path, sqlite_uri, tracking_uri, without_password


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.tracking.ui``; the process becomes MLflow's.

    Raises:
        SparError: the store is no file of this machine.
    """
    uri = tracking_uri(Layout().root)
    database = sqlite_path(uri)
    if database is None:
        raise SparError(f"the runs are on the server {without_password(uri)}", "open that address")
    # From within its folder, the name needs no characters that have a meaning in an address.
    os.chdir(database.parent)
    arguments = sys.argv[1:] if argv is None else argv
    python = Path(sys.executable)
    command = [str(python), "-m", "mlflow", "ui", "--backend-store-uri", sqlite_uri(Path(database.name)), *arguments]
    os.execv(python, command)


if __name__ == "__main__":
    from stages.entry import stage_main

    sys.exit(stage_main(run))
