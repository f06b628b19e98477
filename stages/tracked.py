"""Live tracking of a cell by its folder's identity: the one line that stages need. Cosmetic."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from spar_core.settings import load_yaml
from stages.cells import Cell, cell_digest
from stages.layout import Layout
from stages.tracking import LiveRun, live_run


def tracked(
    layout: Layout, cell: Cell, params: Mapping[str, Any], inputs: Mapping[str, str], steps: int | None = None
) -> AbstractContextManager[LiveRun]:
    """The live MLflow run of a cell; one that logs nothing where no plan has digested the code yet."""
    if not layout.digests.exists():
        return nullcontext(LiveRun(cell))
    code = cell.code_digest(load_yaml(layout.digests))
    return live_run(cell, cell_digest(params, inputs, code), params, layout, total_steps=steps)
