"""Say what each rule of the study cost: wall time and parameters beside its return.

Reads reports/<study>/table.csv and the times that the stages left below artifacts/seconds.
Writes reports/<study>/cost.csv. Times change from run to run, so this is no stage of the pipeline; `make run` calls it.
Times of a cell that came out of DVC's cache are those of the run that made it, or missing where it was made elsewhere.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from spar_core.artifacts import read_json
from spar_core.errors import SparError
from spar_core.settings import parse
from spar_core.study import Study
from stages.cells import Cell, study_cells
from stages.entry import stage_main
from stages.layout import Layout
from stages.params import read_params

# The stages whose time a rule's cost is made of, in pipeline order.
TIMED = ("fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate")
KEYS = ["dataset", "anchor", "critic", "improvement"]


def seconds_of(layout: Layout, cell: Cell) -> float | None:
    """Wall time of a cell, for all its seeds; None where no stage has left one."""
    path = layout.seconds(cell.folder(layout), cell.stage)
    return float(read_json(path)["seconds"]) if path.is_file() else None


def cost_table(layout: Layout, study: Study) -> pd.DataFrame:
    """One row a rule: returns and parameters from its report, seconds by stage, summed over seed groups.

    Raises:
        SparError: the study has no report yet.
    """
    path = layout.report(study.name) / "table.csv"
    if not path.is_file():
        raise SparError(f"{path} does not exist", "run `dvc repro`")
    table = pd.read_csv(path)
    cells = study_cells(study)
    rows = []
    for rule in table[KEYS].to_dict("records"):
        row = dict(rule)
        for stage in TIMED:
            ours = [
                cell
                for cell in cells
                if cell.stage == stage and all(getattr(cell, key) in (None, rule[key]) for key in KEYS)
            ]
            times = [seconds_of(layout, cell) for cell in ours]
            row[f"seconds_{stage}"] = None if None in times else round(sum(t for t in times if t is not None), 1)
        rows.append(row)
    shown = [name for name in ("seeds", "return_mean", "parameters_rule", "parameters_policy") if name in table]
    return pd.DataFrame(rows).merge(table[[*KEYS, *shown]], on=KEYS)[
        [*KEYS, *shown, *(f"seconds_{stage}" for stage in TIMED)]
    ]


def write_cost(layout: Layout) -> None:
    """Write ``cost.csv`` into the folder of the study's report."""
    study = parse(Study, read_params(layout)["study"], f"{layout.params}, study")
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
