"""Open the MLflow UI of the project's store at its results: `python -m stages.tracking.ui`, which `make ui` calls.

Arguments go to `mlflow ui`: `--port 5001`. The addresses of the results are printed, and where there is a display, a
browser opens the first. A server has a UI of its own, whose address is printed instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path

from spar_core.errors import SparError
from spar_core.settings import load_yaml
from stages.layout import Layout
from stages.tracking.experiments import HOST, PORT, result_addresses
from stages.tracking.place import sqlite_path, sqlite_uri, tracking_uri, without_password

# For a server that starts.
SECONDS = 60


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.tracking.ui``; the process becomes MLflow's.

    Raises:
        SparError: the store is no file of this machine.
    """
    layout = Layout()
    uri = tracking_uri(layout.root)
    database = sqlite_path(uri)
    if database is None:
        raise SparError(f"the runs are on the server {without_password(uri)}", "open that address")
    arguments = sys.argv[1:] if argv is None else argv
    python = Path(sys.executable)
    addresses = _addresses(layout, database, uri, arguments)
    for dataset, address in addresses.items():
        print(f"Results on {dataset}: {address}", flush=True)
    if addresses and sys.stdout.isatty() and _has_display():
        first = next(iter(addresses.values()))
        subprocess.Popen([str(python), "-c", f"from stages.tracking.ui import show; show({first!r})"], cwd=layout.root)
    # From within its folder, the name needs no characters that have a meaning in an address.
    os.chdir(database.parent)
    command = [str(python), "-m", "mlflow", "ui", "--backend-store-uri", sqlite_uri(Path(database.name)), *arguments]
    os.execv(python, command)


def _addresses(layout: Layout, database: Path, uri: str, arguments: list[str]) -> dict[str, str]:
    """Where the server will show the results of the study in params.yaml, by dataset."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--host", "-h", default=HOST)
    parser.add_argument("--port", "-p", default=PORT)
    where = parser.parse_known_args(arguments)[0]
    if not database.is_file() or not layout.params.is_file():
        return {}
    datasets = load_yaml(layout.params).get("study", {}).get("datasets", [])
    return result_addresses(uri, f"http://{where.host}:{where.port}", datasets)


def _has_display() -> bool:
    """Whether a browser would open a window, instead of taking over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def show(address: str) -> None:
    """Open an address in the browser as soon as its server answers."""
    for _ in range(SECONDS):
        try:
            with urllib.request.urlopen(address.partition("#")[0], timeout=5):
                break
        except OSError:
            time.sleep(1)
    else:
        return
    webbrowser.open(address)


if __name__ == "__main__":
    from stages.entry import stage_main

    sys.exit(stage_main(run))
