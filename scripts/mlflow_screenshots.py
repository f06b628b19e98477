"""Photograph the MLflow UI of a study for docs/mlflow.md: the results, a training run's charts, a registered model.

Usage: ``python scripts/mlflow_screenshots.py`` after ``make run``. It starts ``mlflow server`` on the project's store
(or asks the server that MLFLOW_TRACKING_URI names), opens three pages in a headless browser, and writes
``docs/images/mlflow-runs.png``, ``mlflow-charts.png`` and ``mlflow-model.png``. A page that does not show what it
should is an error, and leaves its picture as it was.

Playwright drives the browser (requirements-dev.txt); the browser is the machine's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from spar_core.errors import SparError  # noqa: E402
from spar_core.settings import load_yaml  # noqa: E402
from stages.entry import stage_main  # noqa: E402
from stages.tracking.experiments import view_path  # noqa: E402
from stages.tracking.place import is_server, tracking_uri  # noqa: E402
from stages.tracking.registered import registered_name  # noqa: E402
from stages.tracking.store import Store  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
# What MLflow's pages remember in the browser: the side panel of its assistant shut, and training, not language models.
REMEMBERED = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.workflowType_v1": '"machine_learning"',
}
SIZE = {"width": 1500, "height": 900}
SECONDS = 60
MOST_BYTES = 300_000


@dataclass(frozen=True)
class Page:
    """A picture, the address of its page below the server's, and what has to be on it."""

    name: str
    path: str
    texts: Sequence[str]
    # How many charts have to be drawn, and which sections are folded first.
    charts: int = 0
    folded: Sequence[str] = ()


def pages(store: Store, study: str, dataset: str) -> list[Page]:
    """The three pages, with what the store says that they have to show."""
    experiment = store.experiment(dataset)
    runs = store.runs(experiment, f"tags.`spar.study` LIKE '%{study}%'")
    results = [run for run in runs if run.data.tags.get("spar.stage") == "result"]
    critics = [run for run in runs if run.data.tags.get("spar.stage") == "fit_critic"]
    if not results or not critics:
        raise SparError(f"study '{study}' has no results on {dataset} in the MLflow store", "run `make publish`")
    # One that was tracked while it trained has system metrics too.
    critic = max(critics, key=lambda run: len(run.data.metrics))
    best = max(results, key=lambda run: run.data.metrics.get("final/return_mean", float("-inf")))
    name = registered_name(dataset)
    return [
        Page("runs", view_path(experiment), [dataset, best.info.run_name, "final/gain_over_anchor"]),
        Page("charts", f"/experiments/{experiment}/runs/{critic.info.run_id}/model-metrics", [critic.info.run_name], 4),
        Page(
            "model", f"/models/{name}", [name, "@ champion", "@ anchor", "Policies trained offline on"], folded=["Tags"]
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the project (default: this one)")
    parser.add_argument("--study", help="name of the study (default: the one in params.yaml)")
    parser.add_argument("--dataset", help="id of the dataset (default: the study's first)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    parser.add_argument("--browser", help="the browser's program (default: the first Chromium on the path)")
    options = parser.parse_args(argv)
    params = load_yaml(options.root / "params.yaml")["study"]
    browser = options.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SparError("no browser found", "install Chromium, or name one with --browser")
    store = Store(options.root)
    wanted = pages(store, options.study or params["name"], options.dataset or params["datasets"][0])
    options.out.mkdir(parents=True, exist_ok=True)
    with server(tracking_uri(options.root)) as address, opened(browser) as tab:
        for page in wanted:
            picture = photograph(tab, address, page)
            target = options.out / f"mlflow-{page.name}.png"
            target.write_bytes(picture)
            print(f"{target.name}: {len(picture) / 1000:.0f} kB")


@contextmanager
def server(uri: str) -> Iterator[str]:
    """The address of a server on the store; one that was started here ends with the block."""
    if is_server(uri):
        yield uri.rstrip("/")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        1,
    ]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, *map(str, words)], stdout=out, stderr=out, cwd=folder, start_new_session=True
            )
        try:
            deadline = time.monotonic() + SECONDS
            while not answers(f"{address}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    last = (log.read_text().strip().splitlines() or ["it says nothing"])[-1]
                    raise SparError(f"`mlflow server` does not start: {last}")
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=SECONDS)


def answers(url: str) -> bool:
    """Whether a server is there yet."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def opened(browser: str) -> Iterator[Any]:
    """A tab of a headless browser."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise SparError("playwright is not installed", "pip install -r requirements-dev.txt") from None
    with sync_playwright() as playwright:
        try:
            program = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        except Error as error:
            reason = error.message.splitlines()[0]
            raise SparError(f"the browser does not start: {reason}", "name another with --browser") from None
        try:
            tab = program.new_page(viewport=SIZE)
            for key, value in REMEMBERED.items():
                tab.add_init_script(f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})")
            yield tab
        finally:
            program.close()


def photograph(tab: Any, address: str, page: Page) -> bytes:
    """Open a page, wait until it shows what it should, and return its picture.

    Raises:
        SparError: it does not show that.
    """
    from playwright.sync_api import Error

    try:
        tab.goto(f"{address}/#{page.path}")
        for text in page.texts:
            tab.get_by_text(text).first.wait_for(timeout=1000 * SECONDS)
        if page.charts:
            drawn = f"document.querySelectorAll('.js-plotly-plot .scatterlayer .js-line').length >= {page.charts}"
            tab.wait_for_function(drawn, timeout=1000 * SECONDS)
        for title in page.folded:
            tab.get_by_role("button", name=title, exact=True).click()
        # Animations, and placeholders that are still being replaced.
        tab.wait_for_timeout(2500)
        picture = tab.screenshot()
    except Error as error:
        raise SparError(f"the page of mlflow-{page.name}.png does not show what it should: {error.message}") from None
    if len(picture) > MOST_BYTES:
        raise SparError(f"mlflow-{page.name}.png has {len(picture)} bytes", f"keep it below {MOST_BYTES}")
    return picture


if __name__ == "__main__":
    sys.exit(stage_main(main))
