"""Live tracking of a cell by its folder's identity, its wall time and memory: the one line stages need. Cosmetic."""

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
    """The live MLflow run of a cell; one that logs nothing where no plan has digested the code yet.

    When the cell is done, its wall time and peak memory go into a file of their own below ``artifacts/seconds``: they
    change from run to run, so they may not lie in an output of DVC.
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
    """The most memory that was resident at once, in MiB: in this process, and in the largest of its ended children.

    No sum: the workers of a cell peak each at its own time. A child's number is the system's, which never lets it be
    smaller than what this process held when it started the child. None where there was no child.
    """
    children = _mib(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {"peak_mib": _own_peak(), "peak_mib_of_a_worker": children or None}


def _own_peak() -> float:
    """From Linux's own count for this program; ``getrusage`` would count what ran in the process before it, too."""
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return _mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _mib(maxrss: int) -> float:
    """``ru_maxrss`` counts KiB, on macOS bytes."""
    return round(maxrss / 1024 / (1024 if sys.platform == "darwin" else 1), 1)
