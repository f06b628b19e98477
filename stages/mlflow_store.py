"""The MLflow store of the project: where it is, how it comes into being, and how one run is found or written.

Every process goes through a file lock before it touches a fresh store, since MLflow's own creation of a
SQLite database fails for all but one of several processes that start together. ``import mlflow`` takes
seconds, so it happens inside functions.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json
from spar_core.errors import SparError

DIGEST_TAG = "spar.cell_digest"
# Limits of one log_batch request.
_METRICS_PER_BATCH = 1000
_ENTRIES_PER_BATCH = 100
_EXPERIMENTS_DIR = (".dvc", "tmp", "exps")

Point = tuple[str, int, float]  # metric key, step, value


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
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{base / path}"


def _sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, or None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Store:
    """A connection to the tracking store of the project at ``root``; opening it creates a missing database."""

    def __init__(self, root: Path, lock_timeout: float = 60.0) -> None:
        from filelock import FileLock

        self.uri = tracking_uri(root)
        database = _sqlite_path(self.uri)
        self._artifacts = database.parent / "mlartifacts" if database else None
        base = database or main_root(root) / "mlflow.db"
        base.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{base}.lock", timeout=lock_timeout)
        self._experiments: dict[str, str] = {}
        with self._lock:
            self.client = _client(self.uri)
            # The first request is what creates the tables, or finds out that no server answers.
            self.client.search_experiments(max_results=1)

    def lock(self) -> AbstractContextManager[Any]:
        """Exclude other processes of this project; may be taken again by its holder."""
        return self._lock

    def experiment(self, name: str) -> str:
        """Id of the experiment of that name, created (or restored from the bin) where needed."""
        if name not in self._experiments:
            with self._lock:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    where = (self._artifacts / name).as_uri() if self._artifacts else None
                    self._experiments[name] = self.client.create_experiment(name, artifact_location=where)
                else:
                    if found.lifecycle_stage == "deleted":
                        self.client.restore_experiment(found.experiment_id)
                    self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def runs(self, experiment: str, query: str = "") -> list[Any]:
        """All runs of an experiment that match a filter."""
        runs, token = [], None
        while True:
            page = self.client.search_runs([experiment], query, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def finished(self, experiment: str, digest: str, axes: Mapping[str, str]) -> Any | None:
        """The finished run of a digest; what a killed or failed attempt left of it is deleted.

        The ``axes``, tags that name the cell, must agree too: two rules may well have equal policies, and
        then their evaluations have equal params, inputs and code. Call it under the lock, together with
        what depends on the answer.
        """
        kept = None
        for run in self.runs(experiment, f"tags.`{DIGEST_TAG}` = '{digest}'"):
            if any(run.data.tags.get(axis) != value for axis, value in axes.items()):
                continue
            if run.info.status == "FINISHED" and kept is None:
                kept = run
            else:
                self.client.delete_run(run.info.run_id)
        return kept

    def start(self, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Create a running run and return its id."""
        from mlflow.entities import Param

        run_id = self.client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id
        entries = [Param(_key(key), _text(value)) for key, value in flatten(params).items()]
        for batch in _chunks(entries, _ENTRIES_PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        return run_id

    def dataset(self, run_id: str, dataset: str, folder: Path) -> None:
        """Log a dataset as the run's input from its manifest alone, without reading an array."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        manifest = read_json(folder / "manifest.json")
        origin = manifest.get("source") or {}
        # The most telling word about the origin: an address, a file, a Minari id, or else the kind of source.
        named = (origin.get(key) for key in ("url", "file", "minari_id", "dataset", "kind"))
        source = next((value for value in named if isinstance(value, str)), dataset)
        is_url = source.startswith(("http://", "https://"))
        location = {"url": source} if is_url else {"uri": source}
        profile = {k: v for k, v in manifest.items() if isinstance(v, (int, float, str)) and k != "source"}
        entity = Dataset(
            name=dataset,
            digest=str(manifest["digest"])[:36],
            source_type="http" if is_url else "local",
            source=json.dumps(location),
            profile=json.dumps(profile),
        )
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        """Log metric points, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for batch in _chunks([Metric(_key(k), float(v), now, int(s)) for k, s, v in points], _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)

    def tag(self, run: Any, tags: Mapping[str, str]) -> bool:
        """Bring a run's tags up to date; says whether anything had to be written."""
        from mlflow.entities import RunTag

        stale = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        for batch in _chunks(stale, _ENTRIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, tags=batch)
        return bool(stale)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run. FINISHED means that everything it should hold is there."""
        self.client.set_terminated(run_id, status)


def _client(uri: str) -> Any:
    """An MLflow client that is silent, sends no telemetry, and gives up on a dead server within seconds."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise SparError("mlflow is not installed", "pip install -r requirements.txt") from None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints the traceback of every database error, which the caller turns into one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested params as one level, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _key(name: str) -> str:
    """A name with the characters that MLflow refuses replaced."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def _chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
