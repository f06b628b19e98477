"""Stage ``report``: from the evaluation tables of the study to ``reports/<study>/``.

Usage: ``python -m stages.report [--partial | --from-raw]``. Reads ``study`` and ``report`` of ``params.yaml``; only
cells that the study names are read, whatever else lies on disk.

A missing cell is an error. With ``--partial`` the cells that are there make a report of their own, which says what
is missing, in ``reports/<study>/partial/``: DVC does not watch that folder, and its own outputs stay as they are.
With ``--from-raw`` the report is computed from the copies in its own ``raw/``, which are in git: no artifact is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spar_core.artifacts import new_artifact
from spar_core.reporting.numbers.cells import Cell, FolderOf, Folders, load_rules
from spar_core.reporting.numbers.flat import numbers_of
from spar_core.reporting.page.config import ReportSettings
from spar_core.reporting.page.console import console_table
from spar_core.reporting.page.present import present_part
from spar_core.reporting.page.render import Report, build_report
from spar_core.study import Study
from stages.entry import stage_main
from stages.layout import Layout
from stages.params import section

# Below the study's report folder: what `--partial` writes.
PARTIAL = "partial"


def read_study(layout: Layout) -> tuple[Study, ReportSettings]:
    """The study and the report settings of ``params.yaml``."""
    return section(layout, "study", Study), section(layout, "report", ReportSettings)


def folders_of(layout: Layout) -> Folders:
    """Where the artifacts of a cell lie."""

    def place(folder_of: Callable[[str, str, str, str, str], Path]) -> FolderOf:
        return lambda c: folder_of(c.dataset, c.anchor, c.critic, c.improvement, c.seeds)

    def geometry(c: Cell) -> Path:
        return layout.geometry(c.dataset, c.anchor, c.seeds)

    return Folders(place(layout.evaluation), place(layout.estimate), geometry, place(layout.diagnosis))


def raw_of(folder: Path) -> Folders:
    """The same as a report keeps them, below its ``raw``."""

    def place(kind: str) -> FolderOf:
        return lambda c: folder / "raw" / kind / c.dataset / c.anchor / c.critic / c.improvement / c.seeds

    def geometry(c: Cell) -> Path:
        return folder / "raw" / "geometry" / c.dataset / c.anchor / c.seeds

    return Folders(place("evaluation"), place("estimate"), geometry, place("diagnosis"))


def make_report(layout: Layout, *, from_raw: bool = False) -> tuple[Report, Path]:
    """Render the report of the study in ``params.yaml``, write it, and say where it lies.

    Args:
        layout: the project.
        from_raw: read the copies that the report itself keeps, not the artifacts.

    Raises:
        SparError: ``params.yaml`` is wrong, or a cell is missing or broken; nothing is written then.
    """
    study, settings = read_study(layout)
    folder = layout.report(study.name)
    report = build_report(study, raw_of(folder) if from_raw else folders_of(layout), settings)
    write_report(report, folder)
    return report, folder


def make_partial_report(layout: Layout) -> tuple[Report, Path, int]:
    """Render what there is of the study into the ``partial`` folder of its report; also returns the cells missing.

    Raises:
        SparError: ``params.yaml`` is wrong, no cell is there, or a cell is broken; nothing is written then.
    """
    study, settings = read_study(layout)
    part = present_part(study, folders_of(layout))
    report = build_report(part, folders_of(layout), settings, missing=part.missing)
    folder = layout.report(study.name) / PARTIAL
    write_report(report, folder)
    return report, folder, len(part.missing)


def print_table(layout: Layout) -> None:
    """Print the study's table, and where its report lies."""
    study, settings = read_study(layout)
    numbers = numbers_of(load_rules(study, folders_of(layout)), settings)
    print(console_table(numbers.summaries, settings, numbers.offline))
    print(f"\nReport: {layout.report(study.name) / 'report.md'}")


def write_report(report: Report, folder: Path) -> None:
    """Put a rendered report into ``folder``, file by file, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for below, contents in (("figures", report.figures), ("raw", report.raw)):
        if below == "raw" and not contents:
            continue
        with new_artifact(folder / below) as draft:
            for name, data in contents.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(data)
    for name, data in report.files.items():
        draft_file = folder / f".{name}.draft"
        draft_file.write_bytes(data)
        draft_file.replace(folder / name)


def run(argv: Sequence[str] | None = None) -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--partial", action="store_true", help="report on the cells that are there")
    which.add_argument("--from-raw", action="store_true", help="compute it anew from the report's own raw/ folder")
    args = parser.parse_args(argv)
    if args.partial:
        _, folder, missing = make_partial_report(Layout())
        print(f"partial report, {missing} missing cell{'' if missing == 1 else 's'}: {folder / 'report.md'}")
        return
    _, folder = make_report(Layout(), from_raw=args.from_raw)
    print(f"report: {folder / 'report.md'}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
