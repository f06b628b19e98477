"""Write the cost of each rule of the study: wall time and parameters beside its return (or its FQE value).

Reads reports/<study>/table.csv and the times that the stages left below artifacts/seconds.
Writes reports/<study>/cost.csv. Times change from run to run, so this is no stage of the pipeline; `make run` calls it.
The time of a cell from DVC's cache is that of the run that made it. It is missing if the cell was made elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.artifacts import read_json
from spar_core.errors import SparError
from spar_core.reporting.numbers.cells import KEYS
from spar_core.study import Study
from stages.cells import Cell, study_cells
from stages.entry import stage_main
from stages.layout import Layout
from stages.params import section
from stages.table import STAGES


@dataclass(frozen=True)
class Spent:
    """Wall time of a cell in seconds, and peak memory in MiB of its own process and of its largest worker."""

    cell: Cell
    seconds: float
    workers: int | None = None
    peak: float | None = None
    worker_peak: float | None = None


def spent(layout: Layout, study: Study) -> tuple[list[Spent], list[Cell]]:
    """Time and memory of the cells of a study, and the cells whose time is not known here."""
    known, unknown = [], []
    for cell in study_cells(study):
        path = layout.seconds(cell.folder(layout), cell.stage)
        if not path.is_file():
            unknown.append(cell)
            continue
        found = read_json(path)
        # Older files do not hold the memory.
        memory = (found.get("peak_mib"), found.get("peak_mib_of_a_worker"))
        known.append(Spent(cell, float(found["seconds"]), found.get("workers"), *memory))
    return known, unknown


def total_seconds(layout: Layout, cells: Sequence[Cell]) -> float | None:
    """Wall time of cells in seconds, for all their seeds; None if the time of one cell is not known."""
    paths = [layout.seconds(cell.folder(layout), cell.stage) for cell in cells]
    if not all(path.is_file() for path in paths):
        return None
    return round(sum(float(read_json(path)["seconds"]) for path in paths), 1)


def cost_table(layout: Layout, study: Study) -> pd.DataFrame:
    """One row a rule: return (or FQE value) and parameters from the report, and seconds by stage over all seed groups.

    Raises:
        SparError: the study has no report yet.
    """
    path = layout.report(study.name) / "table.csv"
    if not path.is_file():
        raise SparError(f"{path} does not exist", "run `dvc repro`")
    table = pd.read_csv(path)
    shown = [
        name for name in ("seeds", "return_mean", "fqe_mean", "parameters_rule", "parameters_policy") if name in table
    ]
    cost, cells = table[[*KEYS, *shown]].copy(), study_cells(study)
    for stage in STAGES.values():
        if stage.timed and (study.rounds or stage.anchors != "rounds"):
            of_stage = [cell for cell in cells if cell.stage == stage.name]
            cost[f"seconds_{stage.name}"] = [
                total_seconds(layout, [cell for cell in of_stage if _is_part_of(cell, rule)])
                for rule in table[KEYS].to_dict("records")
            ]
    return cost


def _is_part_of(cell: Cell, rule: Mapping[Hashable, Any]) -> bool:
    """Whether a rule rests on a cell: on each axis that the cell has, they agree."""
    return all(getattr(cell, key) in (None, rule[key]) for key in KEYS)


def write_cost(layout: Layout) -> None:
    """Write ``cost.csv`` into the folder of the study's report."""
    study = section(layout, "study", Study)
    path = layout.report(study.name) / "cost.csv"
    draft = path.with_suffix(".draft")
    cost_table(layout, study).to_csv(draft, index=False, lineterminator="\n")
    draft.replace(path)
    print(f"Wall time and parameters: {path}")


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.cost``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    write_cost(Layout())


if __name__ == "__main__":
    sys.exit(stage_main(run))
