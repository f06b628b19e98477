"""The MLflow store of the project: how it is created, and how one run is found or written.

Every process takes a file lock before it opens a store. If several processes start together on a fresh store, MLflow's
own creation of the SQLite database fails for all but one of them. ``import mlflow`` takes seconds, so it stands inside
functions.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_value, read_json
from spar_core.errors import SparError
from stages.tracking.place import lock_file, sqlite_path, tracking_uri

DIGEST_TAG = "spar.cell_digest"
# The process that writes a run to a shared store, as "<machine>:<process id>".
WRITER_TAG = "spar.writer"
# Limits of one log_batch request.
_METRICS_PER_BATCH = 1000
_ENTRIES_PER_BATCH = 100
# Seconds to wait for a database that another process holds; MLflow itself would wait for minutes.
_DATABASE_SECONDS = 5.0
# An unfinished run of another machine counts as abandoned after so many seconds without a sign of life.
_SILENT_SECONDS = 600.0

Point = tuple[str, int, float]  # metric key, step, value


class Store:
    """A connection to the tracking store of the project at ``root``. Opening it creates a missing database."""

    def __init__(self, root: Path, lock_timeout: float = 60.0) -> None:
        from filelock import FileLock

        self.uri = tracking_uri(root)
        database = sqlite_path(self.uri)
        self.shared = database is None
        self._artifacts = database.parent / "mlartifacts" if database else None
        lock = lock_file(self.uri)
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock, timeout=lock_timeout)
        self._experiments: dict[str, str] = {}
        with self._lock:
            if database:
                _refuse_locked(database)
            self.client = _client(self.uri)
            # The first request creates the tables, or fails if no server answers.
            self.client.search_experiments(max_results=1)

    def lock(self) -> AbstractContextManager[Any]:
        """The lock that excludes other processes of this machine's user. Its holder may take it again."""
        return self._lock

    def experiment(self, name: str) -> str:
        """Id of the experiment of that name, which is created or restored from the bin if needed."""
        if name not in self._experiments:
            with self._lock:
                found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _create_experiment(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        where = (self._artifacts / name).as_uri() if self._artifacts else None
        try:
            self.client.create_experiment(name, artifact_location=where)
        except MlflowException as error:
            # Another machine may have created it meanwhile.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.get_experiment_by_name(name)

    def describe(self, experiment: str, there: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set those tags of an experiment that differ from ``there``, its present ones."""
        for key, value in tags.items():
            if there.get(key) != value:
                self.client.set_experiment_tag(experiment, key, value)

    def runs(self, experiment: str, query: str = "") -> list[Any]:
        """All runs of an experiment that match a filter."""
        return pages(lambda token: self.client.search_runs([experiment], query, max_results=1000, page_token=token))

    def finished(self, experiment: str, digest: str, axes: Mapping[str, str]) -> Any | None:
        """The finished run of a digest, or None; runs of killed and failed attempts are deleted.

        The ``axes``, tags that name the cell, must agree too: two rules may have equal policies, and then their
        evaluations have equal params, inputs and code. Machines that write at once can make several finished runs.
        Every machine then keeps the oldest. Hold the lock during this call and during all that depends on its answer.
        """
        found = [
            run
            for run in self.runs(experiment, f"tags.`{DIGEST_TAG}` = '{digest}'")
            if all(run.data.tags.get(axis) == value for axis, value in axes.items())
        ]
        done = [run for run in found if run.info.status == "FINISHED"]
        kept = min(done, key=lambda run: (run.info.start_time, run.info.run_id), default=None)
        for run in found:
            if run is not kept and (run in done or self._abandoned(run)):
                self.client.delete_run(run.info.run_id)
        return kept

    def kept(self, experiment: str, digest: str, axes: Mapping[str, str]) -> Any:
        """The finished run of a digest, just after one was written; see :meth:`finished`."""
        run = self.finished(experiment, digest, axes)
        assert run is not None
        return run

    def _abandoned(self, run: Any) -> bool:
        """Whether no process writes an unfinished run any more."""
        if not self.shared or run.info.status != "RUNNING":
            return True
        writer = run.data.tags.get(WRITER_TAG, "")
        last = max([run.info.start_time, *(metric.timestamp for metric in run.data._metric_objs)])
        return not self.writing(writer, last)

    def writer_tag(self) -> dict[str, str]:
        """The tag that names this process as the writer; empty for a store that only this machine uses."""
        return {WRITER_TAG: f"{_machine()}:{os.getpid()}"} if self.shared else {}

    def writing(self, writer: str, last: int) -> bool:
        """Whether the writer of an unfinished entity may still be at work.

        Args:
            writer: value of the tag ``WRITER_TAG``.
            last: time of the writer's last sign of life, in milliseconds since 1970.
        """
        import psutil

        machine, _, process = writer.partition(":")
        # This very process no longer works on what it has left unfinished.
        if machine == _machine() and (process == str(os.getpid()) or not psutil.pid_exists(int(process))):
            return False
        return time.time() - last / 1000 < _SILENT_SECONDS

    def start(self, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Create a run with the status RUNNING and return its id."""
        from mlflow.entities import Param

        run = self.client.create_run(experiment, tags={**tags, **self.writer_tag()}, run_name=name)
        run_id = str(run.info.run_id)
        # Settings without a value are left out.
        told = {key: value for key, value in flatten(params).items() if value is not None}
        entries = [Param(_key(key), _text(value)) for key, value in told.items()]
        for batch in _chunks(entries, _ENTRIES_PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        return run_id

    def dataset(self, run_id: str, dataset: str, folder: Path) -> None:
        """Log a dataset as the run's input from its manifest alone, without reading an array."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        manifest = read_json(folder / "manifest.json")
        origin = manifest.get("source") or {}
        # The most specific name of the origin: an address, a file, a Minari id, or else the kind of source.
        named = (origin.get(key) for key in ("url", "file", "minari_id", "dataset", "kind"))
        source = next((value for value in named if isinstance(value, str)), dataset)
        is_url = source.startswith(("http://", "https://"))
        location = {"url": source} if is_url else {"uri": source}
        profile = {k: v for k, v in manifest.items() if isinstance(v, (int, float, str)) and k != "source"}
        entity = Dataset(
            name=dataset,
            digest=dataset_digest(folder),
            source_type="http" if is_url else "local",
            source=json.dumps(location),
            profile=json.dumps(profile),
        )
        self.client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def log(self, run_id: str, points: Iterable[Point], **of: str) -> None:
        """Log metric points, in as few requests as MLflow allows.

        Args:
            run_id: the run.
            points: the points.
            of: the model (``model_id``) and the dataset (``dataset_name``, ``dataset_digest``) that the points also
                describe.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_key(k), float(v), now, int(s), **of) for k, s, v in points]
        for batch in _chunks(metrics, _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)

    def tag(self, run: Any, tags: Mapping[str, str]) -> bool:
        """Bring a run's tags up to date, and return whether a tag had to be written."""
        from mlflow.entities import RunTag

        stale = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        for batch in _chunks(stale, _ENTRIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, tags=batch)
        return bool(stale)

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run. The status FINISHED means that the run is complete."""
        self.client.set_terminated(run_id, status)


def dataset_digest(folder: Path) -> str:
    """The digest of a dataset's episodes, cut to the length that MLflow allows."""
    return str(read_json(folder / "manifest.json")["digest"])[:36]


def pages(search: Callable[[str | None], Any]) -> list[Any]:
    """All results of a search that returns them in pages."""
    found, token = [], None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found


def _machine() -> str:
    """A digest of this machine and user, which reveals neither."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return digest_value([socket.gethostname(), uuid.getnode(), user])[:8]


def _refuse_locked(database: Path) -> None:
    """Fail within seconds if another process holds the database.

    Raises:
        SparError: the database is locked, damaged or not writable.
    """
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database, timeout=_DATABASE_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise SparError(
                f"another process holds {database.name} ({error})", "try again when that process is done"
            ) from None
        raise SparError(
            f"{database.name} cannot be written ({error})", "make the file writable, or delete it"
        ) from None
    except sqlite3.DatabaseError as error:
        raise SparError(f"{database.name} is damaged ({error})", "delete it: `make publish` rebuilds it") from None


def _client(uri: str) -> Any:
    """An MLflow client that is silent, sends no telemetry, and gives up on a dead server within seconds."""
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # A lock file of uv in the working directory does not belong to a model.
        "MLFLOW_UV_AUTO_DETECT": "false",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise SparError("mlflow is not installed", "pip install -r requirements.txt") from None
    if sqlite_path(uri) and "%" in uri:
        from mlflow.store.db import utils

        # MLflow would make the folder of the database, and takes its name as the address spells it, `%3F` and all.
        utils._make_parent_dirs_if_sqlite = lambda _: None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # This logger prints the traceback of every database error, which the caller turns into one line.
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
