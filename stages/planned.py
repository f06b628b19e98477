"""Whether a stage that DVC runs is still what ``plan`` wrote down.

DVC notes the digests of ``plan.json`` beside a result. A stage reads its settings, its entry and its code when it
starts, which can be hours later. If params.yaml was edited meanwhile, or another branch was checked out, the result
would stand in DVC's cache under settings that it was not made with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_value, read_json
from spar_core.data.entry import Entry
from spar_core.data.entry_files import source_digest
from spar_core.errors import SparError
from stages.cells import Cell
from stages.closure import Known, code_digest
from stages.layout import HERE, Layout
from stages.table import FAMILIES

# Set by DVC for the commands of stages alone. A stage that a person runs takes params.yaml as it is.
VARIABLE = "DVC_STAGE"
_KNOWN = Known()


def running_digest(modules: Sequence[str]) -> str:
    """Digest of the code that modules reach in the checkout that runs; a process reads each module once."""
    return code_digest(HERE, modules, _KNOWN)


def data_digest(entry: Entry, *roots: Path) -> str:
    """Digest of all that a dataset is made from: the keys of its entry that say how, and its local files."""
    return digest_value([entry.recipe(), source_digest(entry, *roots)])


def check_cell(layout: Layout, cell: Cell, params: Mapping[str, Any]) -> None:
    """Refuse a cell whose settings or code are not the planned ones; outside of DVC, nothing is checked.

    Args:
        layout: the project.
        cell: the cell.
        params: the cell's settings by section or family, as its ``meta.json`` will hold them.

    Raises:
        SparError: params.yaml or the code of the stage changed after ``plan`` ran.
    """
    plan = _plan(layout)
    if plan is None:
        return
    settings = plan["settings"].get(cell.dataset, {})
    for name, values in params.items():
        planned = _planned(settings, cell, name)
        # A round comes from the command line, and a stage of one's own may have settings that the plan does not hold.
        if planned is not None:
            _check(f"'{name}' of params.yaml", planned, values)
    _check_code(plan, cell.stage)


def check_data(layout: Layout, dataset: str, entry: Entry) -> None:
    """The same for the entry of a dataset and its files."""
    plan = _plan(layout)
    if plan is not None:
        found = data_digest(entry, *layout.roots)
        _check(f"datasets/{dataset}.yaml or a file behind it", plan["data"].get(dataset), found)
        _check_code(plan, "download")


def check_report(layout: Layout, study: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """The same for the study and the report's settings."""
    plan = _plan(layout)
    if plan is not None:
        _check("'study' of params.yaml", plan["study"], study)
        _check("'report' of params.yaml", plan["report"], settings)
        _check_code(plan, "report")


def _plan(layout: Layout) -> Any:
    """Content of ``plan.json``; None outside of DVC."""
    return read_json(layout.plan) if VARIABLE in os.environ and layout.plan.is_file() else None


def _planned(settings: Mapping[str, Any], cell: Cell, name: str) -> Any:
    """What the plan holds of one section, or of the cell's variant in it."""
    if name in FAMILIES:
        return settings.get(f"{name}s", {}).get(getattr(cell, name))
    if name == "residual":
        return settings.get(name, {}).get(cell.anchor)
    return settings.get(name)


def _check_code(plan: Mapping[str, Any], stage: str) -> None:
    _check(f"the code of the stage '{stage}'", plan["code"]["stage"].get(stage), running_digest([f"stages.{stage}"]))


def _check(what: str, planned: Any, found: Any) -> None:
    if digest_value(planned) != digest_value(found):
        raise SparError(
            f"{what} changed after `plan` had read it",
            "leave params and code alone while a study runs; run it again, finished cells are not run again",
        )
