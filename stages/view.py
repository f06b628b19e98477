"""Write ``reports/<study>/report.html``: the report as one page that opens offline, with facts about this run.

It reads ``report.md`` and its figures, the artifacts, the times below artifacts/seconds, git and MLflow. The page adds
the commit, run ids, time, memory and machine, and pictures of the policies at work. These differ between copies of the
project, so the page is not in git and not an output of DVC; `make run` writes it at its end. Where a source is missing
(the MLflow store, a way to draw, artifacts), the page says so.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from markupsafe import Markup

from spar_core.artifacts import digest_file
from spar_core.errors import SparError
from spar_core.reporting.page.console import NOTHING
from spar_core.reporting.page.page import Extra, Film, Table, build_page
from spar_core.study import Study
from stages.cost import Spent, spent
from stages.entry import stage_main
from stages.films import films
from stages.layout import Layout
from stages.machine import processor
from stages.params import section
from stages.table import STAGES
from stages.tracking.run_index import Run, RunIndex, find_runs

PAGE = "report.html"
LIBRARIES = ("torch", "numpy", "mujoco", "gymnasium", "gymnasium-robotics", "minari", "scipy", "dvc", "mlflow")
_GIT_SECONDS = 20


def write_page(layout: Layout, film: bool = True) -> Path:
    """Write the page of the study in ``params.yaml``, complete or not at all; returns its path.

    Args:
        layout: the project.
        film: whether to film the policies; a new film takes up to half a minute per dataset.

    Raises:
        SparError: the study has no report yet.
    """
    study = section(layout, "study", Study)
    folder = layout.report(study.name)
    report = folder / "report.md"
    if not report.is_file():
        raise SparError(f"{report} does not exist", "run `dvc repro`")
    extra = gather(study, layout, films(study, layout) if film else [])
    page = build_page(report.read_text(encoding="utf-8"), folder, study.datasets, extra)
    draft = folder / f".{PAGE}.draft"
    draft.write_bytes(page.encode())
    draft.replace(folder / PAGE)
    return folder / PAGE


def gather(study: Study, layout: Layout, pictures: Sequence[Film]) -> Extra:
    """Everything that the page holds besides the report."""
    index = find_runs(study, layout)
    known, unknown = spent(layout, study)
    return Extra(
        facts=versions_of_project(layout.root),
        films=pictures,
        runs=run_tables(index),
        runs_note=index.note,
        stages=stage_table(known) if known else None,
        cells=cell_table(known) if known else None,
        cost_notes=cost_notes(known, len(unknown)),
        machine=machine(),
        versions=libraries(),
    )


# --- commit and machine ---


def versions_of_project(root: Path) -> dict[str, str]:
    """Commit, files changed since, and digest of ``dvc.lock``; each says "none" where it does not exist."""
    commit = _git(root, "log", "-1", "--format=%H, of %cs")
    facts = {"Commit": commit or "none: not a git repository"}
    if commit:
        changed = [line[3:] for line in (_git(root, "status", "--porcelain", "-uno") or "").splitlines()]
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        facts["Changed since"] = f"{', '.join(changed[:5])}{more}" if changed else "nothing"
    lock = root / "dvc.lock"
    facts["dvc.lock"] = digest_file(lock) if lock.is_file() else "none"
    return facts


def _git(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None where it fails."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip() if done.returncode == 0 else None


def machine() -> dict[str, str]:
    """Facts about the machine that writes the page."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "Processor": f"{processor()}, {cores} cores in use of {os.cpu_count()}",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def libraries() -> dict[str, str]:
    """Versions of the libraries that results depend on."""

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {name: version(name) for name in LIBRARIES}


# --- runs ---


def run_tables(index: RunIndex) -> list[Table]:
    """The result runs, and the runs of the stages behind them."""
    if not index.results and not index.cells:
        return []
    # The columns that distinguish rows come first, since a phone shows only these without scrolling.
    results = [
        [rule, _link(run), anchor, critic, dataset] for (dataset, anchor, critic, rule), run in index.results.items()
    ]
    cells = [[cell.name, _link(run), cell.dataset] for cell, run in index.cells.items()]
    return [Table(("rule", "run", "anchor", "critic", "dataset"), results), Table(("cell", "run", "dataset"), cells)]


def _link(run: Run | None) -> str:
    if run is None:
        return "not published"
    code = Markup("<code>{}</code>").format(run.run_id)
    return Markup('<a href="{}">{}</a>').format(run.address, code) if run.address else code


# --- time and memory ---


def stage_table(known: Sequence[Spent]) -> Table:
    """Time and memory by stage, in pipeline order."""
    rows = []
    for stage in STAGES:
        of_stage = [one for one in known if one.cell.stage == stage]
        if of_stage:
            seconds = [one.seconds for one in of_stage]
            times = (_time(statistics.median(seconds)), _time(max(seconds)), _time(sum(seconds)))
            rows.append([stage, len(of_stage), *times, *_peaks(of_stage)])
    total = _time(sum(one.seconds for one in known))
    rows.append(["all", len(known), "", "", total, *_peaks(known)])
    columns = ("stage", "cells", "median", "longest", "total", "peak memory", "of a worker")
    return Table(columns, rows, frozenset(range(1, 7)))


def cell_table(known: Sequence[Spent]) -> Table:
    """Time and memory by cell."""
    rows = [
        [one.cell.name, _time(one.seconds), one.workers or NOTHING, *_peaks([one]), one.cell.dataset] for one in known
    ]
    columns = ("cell", "time", "workers", "peak memory", "of a worker", "dataset")
    return Table(columns, rows, frozenset(range(1, 5)))


def cost_notes(known: Sequence[Spent], unknown: int) -> list[str]:
    """Notes that explain the tables of time and memory."""
    if not known:
        return ["No times are recorded in this copy: the artifacts were made elsewhere, or do not exist."]
    notes = [
        "Time is the wall time of a cell, for all seeds of its group. Cells can run in parallel, so the total is not "
        "the duration of the study. A cell from the cache shows the time that it took when it was made.",
        "Peak memory is the largest resident memory of the stage's own process, and of its largest worker, libraries "
        "included. The two are not added: each of several workers can use up to the last column in addition. The "
        "system counts for a worker at least the memory of its parent at the worker's start.",
    ]
    if not any(one.peak for one in known):
        notes[1] = "Memory was not measured when these cells ran."
    if unknown:
        whole = len(known) + unknown
        notes.append(
            f"{unknown} of the study's {whole} cells have no time here: they were made elsewhere, or do not exist yet."
        )
    return notes


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _peaks(cells: Sequence[Spent]) -> tuple[str, str]:
    """The largest peak memory of the cells' own processes, and of their workers."""
    own = [one.peak for one in cells if one.peak]
    worker = [one.worker_peak for one in cells if one.worker_peak]
    return _mebibytes(own), _mebibytes(worker)


def _mebibytes(values: Sequence[float]) -> str:
    return f"{max(values):.0f} MiB" if values else NOTHING


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.view``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-film", action="store_true", help="leave out the films of the policies")
    path = write_page(Layout(), film=not parser.parse_args(argv).no_film)
    print(f"Page: {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(stage_main(run))
