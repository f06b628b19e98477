"""Say what each rule of the study cost: wall time and parameters beside its return (or its FQE value).

Reads reports/<study>/table.csv and the times that the stages left below artifacts/seconds.
Writes reports/<study>/cost.csv. Times change from run to run, so this is no stage of the pipeline; `make run` calls it.
Times of a cell that came out of DVC's cache are those of the run that made it, or missing where it was made elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from spar_core.artifacts import read_json
from spar_core.errors import SparError
from spar_core.reporting.numbers.cells import KEYS
from spar_core.study import Study
from stages.cells import Cell, study_cells
from stages.entry import stage_main
from stages.layout import Layout
from stages.params import section

# The stages whose time a rule's cost is made of, in pipeline order.
TIMED = ("fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate", "estimate")


@dataclass(frozen=True)
class Spent:
    """What one cell took: wall time, and peak memory in MiB of its own process and of its largest worker."""

    cell: Cell
    seconds: float
    workers: int | None = None
    peak: float | None = None
    worker_peak: float | None = None


def spent(layout: Layout, study: Study) -> tuple[list[Spent], list[Cell]]:
    """What the cells of a study took, and those of which nothing is known here."""
    known, unknown = [], []
    for cell in study_cells(study):
        path = layout.seconds(cell.folder(layout), cell.stage)
        if not path.is_file():
            unknown.append(cell)
            continue
        found = read_json(path)
        # Older files hold no memory.
        memory = (found.get("peak_mib"), found.get("peak_mib_of_a_worker"))
        known.append(Spent(cell, float(found["seconds"]), found.get("workers"), *memory))
    return known, unknown


def total_seconds(layout: Layout, cells: Sequence[Cell]) -> float | None:
    """Wall time of cells, for all their seeds; None where a stage has left none for one of them."""
    paths = [layout.seconds(cell.folder(layout), cell.stage) for cell in cells]
    if not all(path.is_file() for path in paths):
        return None
    return round(sum(float(read_json(path)["seconds"]) for path in paths), 1)


def cost_table(layout: Layout, study: Study) -> pd.DataFrame:
    """One row a rule: returns (or FQE values) and parameters from its report, seconds by stage, over all seed groups.

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
    for stage in (*TIMED, *(["reanchor"] if study.rounds else [])):
        cost[f"seconds_{stage}"] = [
            total_seconds(
                layout,
                [
                    cell
                    for cell in cells
                    if cell.stage == stage and all(getattr(cell, key) in (None, rule[key]) for key in KEYS)
                ],
            )
            for rule in table[KEYS].to_dict("records")
        ]
    return cost


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
