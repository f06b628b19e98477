"""Track a cell while it is made: its live run in MLflow, its wall time and its memory. No artifact depends on this."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json, write_json
from stages.cells import Cell, cell_digest
from stages.entry import workers
from stages.layout import Layout
from stages.tracking.live import LiveRun, live_run

_STATUS = Path("/proc/self/status")


@contextmanager
def tracked(
    layout: Layout, cell: Cell, params: Mapping[str, Any], inputs: Mapping[str, str], steps: int | None = None
) -> Iterator[LiveRun]:
    """The live MLflow run of a cell. The run logs nothing if no plan has digested the code yet.

    When the cell is done, its wall time and peak memory are written below ``artifacts/seconds``. They change from run
    to run, so they may not be part of an output of DVC.

    Args:
        layout: the project.
        cell: the cell.
        params: the params of the cell's ``meta.json``.
        inputs: digests of the input artifacts by name.
        steps: last step of the learning curves, if the cell logs any.
    """
    begun = time.perf_counter()
    if layout.plan.exists():
        code = cell.code_digest(read_json(layout.plan))
        with live_run(cell, cell_digest(params, inputs, code), params, layout, total_steps=steps) as live:
            yield live
    else:
        yield LiveRun(cell)
    path = layout.seconds(cell.folder(layout), cell.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = round(time.perf_counter() - begun, 2)
    write_json(path, {"seconds": taken, "seeds": len(cell.seed_numbers), "workers": workers(), **peak_memory()})


def peak_memory() -> dict[str, float | None]:
    """Peak resident memory in MiB, of this process and of the largest child that has ended (None without a child).

    The two are not added up, since each process peaks at its own time. The system counts a child at no less than this
    process held when it started the child.
    """
    children = _mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {"peak_mib": _own_peak(), "peak_mib_of_a_worker": children or None}


def _own_peak() -> float:
    """Peak memory of this program, from Linux's own count; ``getrusage`` also counts what the process ran before."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return _mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _mib(maxrss: int) -> float:
    """MiB of a value of ``ru_maxrss``, which is in KiB, and on macOS in bytes."""
    return round(maxrss / 1024 / (1024 if sys.platform == "darwin" else 1), 1)
