"""Live tracking of a cell by its folder's identity, and the wall time it took: the one line stages need. Cosmetic."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from spar_core.artifacts import write_json
from spar_core.settings import load_yaml
from stages.cells import Cell, cell_digest
from stages.entry import workers
from stages.layout import Layout
from stages.tracking import LiveRun, live_run


@contextmanager
def tracked(
    layout: Layout, cell: Cell, params: Mapping[str, Any], inputs: Mapping[str, str], steps: int | None = None
) -> Iterator[LiveRun]:
    """The live MLflow run of a cell; one that logs nothing where no plan has digested the code yet.

    When the cell is done, its wall time goes into a file of its own below ``artifacts/seconds``: it changes from
    run to run, so it may not lie in an output of DVC.
    """
    begun = time.perf_counter()
    if layout.digests.exists():
        code = cell.code_digest(load_yaml(layout.digests))
        with live_run(cell, cell_digest(params, inputs, code), params, layout, total_steps=steps) as live:
            yield live
    else:
        yield LiveRun(cell)
    path = layout.seconds(cell.folder(layout), cell.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = round(time.perf_counter() - begun, 2)
    write_json(path, {"seconds": taken, "seeds": len(cell.seed_numbers), "workers": workers()})
