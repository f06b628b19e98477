"""Find the MLflow runs of a study for its page. Nothing is written: neither a database nor an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spar_core.artifacts import META, read_json
from spar_core.errors import SparError
from spar_core.study import Study
from stages.cells import Cell, cell_digest, study_cells
from stages.layout import Layout
from stages.table import AXES
from stages.tracking.place import is_server, sqlite_path, tracking_uri, without_password
from stages.tracking.published import STUDY_TAG
from stages.tracking.store import DIGEST_TAG, Store

_AXES = AXES[:-1]


@dataclass(frozen=True)
class Run:
    """A finished run, with the address of its page if the store is a server."""

    name: str
    run_id: str
    address: str | None = None


@dataclass(frozen=True)
class RunIndex:
    """The runs of a study.

    Attributes:
        note: where the runs are, or why none is known.
        results: result runs by dataset, anchor, critic and rule.
        cells: runs of cells.
    """

    note: str
    results: Mapping[tuple[str, ...], Run | None] = field(default_factory=dict)
    cells: Mapping[Cell, Run | None] = field(default_factory=dict)


def find_runs(study: Study, layout: Layout) -> RunIndex:
    """Look up the runs of a study. If the store is missing or does not answer, the result holds a note."""
    uri = tracking_uri(layout.root)
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        return RunIndex("Nothing was published from this copy of the project: it has no MLflow database.")
    try:
        return _read(Store(layout.root, lock_timeout=10), uri, study, layout)
    # A store may raise any error, and the page has to be written without the store, too.
    except Exception as error:
        reason = without_password((str(error).strip() or type(error).__name__).splitlines()[0][:200])
        if database is not None:
            reason = reason.replace(str(database.parent), "").strip()
        return RunIndex(f"The runs are not known, since the MLflow store does not answer: {reason}")


def _read(store: Store, uri: str, study: Study, layout: Layout) -> RunIndex:
    results: dict[tuple[str, ...], Run | None] = {}
    cells: dict[Cell, Run | None] = {}
    digests = _digests(study, layout)
    for dataset in study.datasets:
        found = store.client.get_experiment_by_name(dataset)
        runs = _finished(store, found.experiment_id, study) if found else []
        by_digest = {(run.data.tags.get(DIGEST_TAG), run.data.tags.get("spar.stage"), *_axes(run)): run for run in runs}
        evaluations: dict[tuple[str, ...], set[str]] = {}
        for cell, digest in digests.items():
            if cell.dataset != dataset:
                continue
            axes = tuple(str(getattr(cell, axis) or "") for axis in _AXES)
            run = by_digest.get((digest, cell.stage, *axes))
            cells[cell] = run and _run(run, uri)
            if cell.stage == "evaluate":
                evaluations.setdefault(axes, set()).add(run.info.run_id if run else "")
        for axes, ids in evaluations.items():
            ours = [run for run in runs if run.data.tags.get("spar.stage") == "result" and _axes(run) == axes]
            # Earlier results of the same rule rest on other evaluations and are left out.
            ours = [run for run in ours if ids == set(run.data.tags.get("spar.run.evaluate", "").split(","))]
            results[axes] = _run(ours[0], uri) if ours else None
    if not any(results.values()) and not any(cells.values()):
        return RunIndex(
            "The MLflow store holds no run of these artifacts: `python -m stages.tracking.publish` adds them."
        )
    where = without_password(uri) if is_server(uri) else "the project's own database, which `make ui` opens"
    return RunIndex(f"One experiment a dataset, in {where}.", results, cells)


def _digests(study: Study, layout: Layout) -> dict[Cell, str | None]:
    """Identity of each cell; None if its artifact or the digest of its code is missing."""
    plan = read_json(layout.plan) if layout.plan.is_file() else {}
    found: dict[Cell, str | None] = {}
    for cell in study_cells(study):
        meta = cell.folder(layout) / META
        found[cell] = None
        if meta.is_file():
            values = read_json(meta)
            try:
                found[cell] = cell_digest(values["params"], values["inputs"], cell.code_digest(plan))
            except SparError:  # The plan holds no digest of the cell's code.
                continue
    return found


def _finished(store: Store, experiment: str, study: Study) -> list[Any]:
    """The finished runs that the study has published."""
    runs = store.runs(experiment, f"tags.`{STUDY_TAG}` LIKE '%{study.name}%' AND attributes.status = 'FINISHED'")
    return [run for run in runs if study.name in run.data.tags[STUDY_TAG].split(", ")]


def _axes(run: Any) -> tuple[str, ...]:
    return tuple(run.data.tags.get(axis, "") for axis in _AXES)


def _run(run: Any, uri: str) -> Run:
    where = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    # The page must not show a password of the store's address.
    address = f"{without_password(uri).replace('***@', '').rstrip('/')}/{where}" if is_server(uri) else None
    return Run(str(run.info.run_name), run.info.run_id, address)
