"""Stage ``report``: write ``reports/<study>/`` from the artifacts of the study's cells.

Usage: ``python -m stages.report [--partial]``. It reads the sections ``study`` and ``report`` of ``params.yaml``, and
only the cells that the study names.

A missing cell is an error. With ``--partial``, the present cells make a report of their own in
``reports/<study>/partial/``, which lists what is missing. DVC does not watch that folder, so the report that it watches
stays intact.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Cell, FoldersOf, StudyLists
from spar_core.reporting.numbers.flat import numbers_of
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.page.answer import answer
from spar_core.reporting.page.present import present_part
from spar_core.reporting.page.render import build_report, console_text
from spar_core.reporting.page.writing import write_report
from spar_core.study import Study
from stages.entry import stage_main
from stages.layout import Layout
from stages.origins import origins_of
from stages.params import read_layers, section
from stages.planned import check_report
from stages.table import STAGES, place

# The folder of a partial report, below the study's report folder.
PARTIAL = "partial"


def read_study(layout: Layout) -> tuple[Study, ReportSettings]:
    """The study and the report settings of ``params.yaml``."""
    return section(layout, "study", Study), section(layout, "report", ReportSettings)


def origins(layout: Layout, study: Study) -> dict[str, Any]:
    """By dataset, where settings come from that params.yaml does not give."""
    return {dataset: origins_of(read_layers(layout, dataset), study) for dataset in study.datasets}


def folders_of(layout: Layout) -> FoldersOf:
    """Gives the folders of those of a cell's artifacts that the report reads."""

    def folders(cell: Cell, study: StudyLists) -> dict[str, Path]:
        stages = [stage for stage in STAGES.values() if stage.reported and stage.serves(cell, study)]
        return {stage.artifact: layout.artifact(place(stage.artifact, cell)) for stage in stages}

    return folders


def make_report(layout: Layout) -> Path:
    """Render and write the report of the study in ``params.yaml``; returns its folder.

    Raises:
        SparError: ``params.yaml`` is wrong, or a cell is missing or broken; nothing is written then.
    """
    study, settings = read_study(layout)
    check_report(layout, study.model_dump(mode="json", exclude={"params"}), settings.model_dump(mode="json"))
    folder = layout.report(study.name)
    write_report(build_report(study, folders_of(layout), settings, origins=origins(layout, study)), folder)
    return folder


def make_partial_report(layout: Layout) -> tuple[Path, int]:
    """Render and write a report of the present cells; returns its folder and the number of missing cells.

    Raises:
        SparError: ``params.yaml`` is wrong, no cell is present, or a cell is broken; nothing is written then.
    """
    study, settings = read_study(layout)
    part = present_part(study, folders_of(layout))
    folder = layout.report(study.name) / PARTIAL
    write_report(build_report(part, folders_of(layout), settings, part.missing, origins(layout, study)), folder)
    return folder, len(part.missing)


def print_table(layout: Layout) -> None:
    """Print the study's answer and table, and the path of its report."""
    study, settings = read_study(layout)
    rules = load_rules(study, folders_of(layout))
    numbers = numbers_of(rules, settings)
    print(console_text(*answer(rules, numbers.agreements, settings), numbers, settings))
    print(f"\nReport: {layout.report(study.name) / 'report.md'}")


def run(argv: Sequence[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__.splitlines()[0])
    parser.add_argument("--partial", action="store_true", help="report on the present cells")
    if parser.parse_args(argv).partial:
        folder, missing = make_partial_report(Layout())
        print(f"partial report, {missing} missing cell{'' if missing == 1 else 's'}: {folder / 'report.md'}")
        return
    print(f"report: {make_report(Layout()) / 'report.md'}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
