"""Live tracking: the run that a stage logs to MLflow while it trains.

Tracking never makes a stage fail. Any error ends in one line of warning. A run counts as finished only when all of it
was logged, so ``python -m stages.tracking.publish`` adds the run afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from stages.cells import Cell
from stages.layout import Layout
from stages.tracking.points import CURVE_POINTS, curve_key, final_points
from stages.tracking.store import DIGEST_TAG, Point, Store
from stages.tracking.system_metrics import start_monitor, stop_monitor

_FLUSH_SECONDS = 5.0
_LIVE_LOCK_SECONDS = 20.0


class Thinner:
    """Chooses which points of a growing curve to keep, ``limit`` at most.

    If the last step (``total``) is known, the points are evenly spread. Otherwise the first half of ``limit`` are kept
    in full, then every second point for a quarter of ``limit``, every fourth for an eighth, and so on.
    """

    def __init__(self, total: int | None = None, limit: int = CURVE_POINTS) -> None:
        self._total, self._limit = total, limit
        self._seen = self._kept = 0
        self._bucket = -1
        self._stride, self._quota = 1, limit // 2

    def keep(self, step: int) -> bool:
        """Whether the next point, at ``step``, is one to log."""
        if self._total:
            bucket = min(step * (self._limit - 1) // self._total, self._limit - 1)
            fresh, self._bucket = bucket > self._bucket, max(bucket, self._bucket)
            return fresh
        index, self._seen = self._seen, self._seen + 1
        if index % self._stride or self._kept >= self._limit:
            return False
        self._kept += 1
        self._quota -= 1
        if self._quota == 0:
            self._stride, self._quota = 2 * self._stride, max(1, (self._limit - self._kept) // 2)
        return True


class LiveRun:
    """One cell's run in MLflow while the cell is computed. Without a store, no call does anything."""

    def __init__(self, cell: Cell, total_steps: int | None = None) -> None:
        self.cell = cell
        self.run_id: str | None = None
        self._store: Store | None = None
        self._monitor: Any = None
        self._experiment = self._digest = ""
        self._total = total_steps
        self._thinners: dict[str, Thinner] = {}
        self._means: dict[tuple[str, int], dict[int, float]] = {}
        self._buffer: list[Point] = []
        self._flushed = time.monotonic()
        self._final: dict[str, Any] = {}

    @property
    def active(self) -> bool:
        """Whether this run is being logged. It is not if a run with the same digest is finished."""
        return self.run_id is not None

    def log_curve(self, step: int, metric: str, seed: int | None, value: float) -> None:
        """Add a point to a curve such as ``anchor/loss``; the mean is logged once all seeds have the step.

        Seeds may come in any order, interleaved or one after another, each with its steps ascending.
        """
        if not self.active:
            return
        key = curve_key(metric, seed)
        if key not in self._thinners:
            self._thinners[key] = Thinner(self._total)
        if self._thinners[key].keep(step):
            self._buffer.append((key, step, value))
            if seed is not None:
                self._add_to_mean(metric, step, seed, value)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def log_final(self, metrics: Mapping[str, Any]) -> None:
        """Take the content of metrics.json, which is logged as ``final/...`` when the run closes."""
        self._final.update(metrics)

    def flush(self) -> None:
        """Send the buffered points."""
        points, self._buffer, self._flushed = self._buffer, [], time.monotonic()
        if self.active and points:
            self._try(lambda store, run_id: store.log(run_id, points))
            self._flushed = time.monotonic()

    def _add_to_mean(self, metric: str, step: int, seed: int, value: float) -> None:
        # Thinning looks at steps alone, so every seed keeps the same ones.
        values = self._means.setdefault((metric, step), {})
        values[seed] = value
        if len(values) == len(self.cell.seed_numbers):
            del self._means[metric, step]
            self._buffer.append((metric, step, sum(values.values()) / len(values)))

    def _open(self, cell_digest: str, params: Mapping[str, Any], layout: Layout, tags: Mapping[str, str]) -> None:
        try:
            store = Store(layout.root, lock_timeout=_LIVE_LOCK_SECONDS)
            self._experiment, self._digest = store.experiment(self.cell.dataset), cell_digest
            with store.lock():
                if store.finished(self._experiment, cell_digest, self.cell.tags()) is not None:
                    return
                all_tags = {**self.cell.tags(), **tags, DIGEST_TAG: cell_digest}
                all_tags["mlflow.source.name"] = f"stages/{self.cell.stage}.py"
                self.run_id = store.start(self._experiment, self.cell.name, all_tags, params)
                self._store = store
            with suppress(Exception):
                self._monitor = start_monitor(self.run_id, store.uri)
        except Exception as error:
            self._lose(error)

    def _close(self, status: str, layout: Layout) -> None:
        self._stop_monitor(send=True)
        self.flush()
        if self.active and status == "FINISHED":
            self._try(lambda store, run_id: self._complete(store, run_id, layout))
        if self.active:
            self._try(lambda store, run_id: store.finish(run_id, status))
        if self.active and status == "FINISHED":
            self._try(self._settle)

    def _complete(self, store: Store, run_id: str, layout: Layout) -> None:
        store.log(run_id, final_points(self._final, self.cell.seed_numbers))
        store.dataset(run_id, self.cell.dataset, layout.data(self.cell.dataset))

    def _settle(self, store: Store, run_id: str) -> None:
        """Delete all but one run, since another machine may have logged the same cell meanwhile."""
        if store.shared:
            with store.lock():
                store.finished(self._experiment, self._digest, self.cell.tags())

    def _stop_monitor(self, send: bool) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            # Errors of the monitor do not matter.
            with suppress(Exception):
                stop_monitor(monitor, send)

    def _try(self, action: Callable[[Store, str], None]) -> None:
        if self._store is None or self.run_id is None:
            return
        try:
            action(self._store, self.run_id)
        except Exception as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Stop logging. The run stays unfinished, so ``publish`` writes it anew."""
        self.run_id = self._store = None
        self._buffer.clear()
        self._stop_monitor(send=False)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        print(
            f"warning: {self.cell.name} is not tracked in MLflow ({reason}); the stage goes on, and "
            "`python -m stages.tracking.publish` adds the run afterwards",
            file=sys.stderr,
        )


@contextmanager
def live_run(
    cell: Cell,
    cell_digest: str,
    params: Mapping[str, Any],
    layout: Layout,
    *,
    total_steps: int | None = None,
    study: str | None = None,
) -> Iterator[LiveRun]:
    """Track a cell in MLflow for as long as the block runs.

    Nothing is logged if a finished run with the same digest exists, or with ``SPAR_TRACKING=off``. The run ends as
    FINISHED, as FAILED if the block raised an error, or as KILLED on Ctrl-C. The error is passed on.

    Args:
        cell: the cell that is made.
        cell_digest: identity of the cell, ``stages.cells.cell_digest(params, inputs, code_digest)``.
        params: the params of the cell's ``meta.json``.
        layout: the project.
        total_steps: last step of the curves, for an even choice of the points to keep.
        study: name of the study, for the tag ``spar.study``; without a name, ``publish`` adds the tag.
    """
    run = LiveRun(cell, total_steps)
    if os.environ.get("SPAR_TRACKING", "").lower() not in ("off", "0", "false", "no"):
        run._open(cell_digest, params, layout, {"spar.study": study} if study else {})
    try:
        yield run
    except BaseException as error:
        run._close("FAILED" if isinstance(error, Exception) else "KILLED", layout)
        raise
    run._close("FINISHED", layout)
