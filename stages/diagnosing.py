"""The frame of the stages that look into a cell: workers, progress bar, and an artifact written whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spar_core.artifacts import digest_folder, new_artifact, write_json, write_meta
from spar_core.diagnostics.measures import Findings, by_name, write_findings
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.summary import summarise
from spar_core.seeds import parse_seeds
from spar_core.training.fitted import CURVES, METRICS, write_curves
from spar_core.training.workers import Job, over_seeds
from stages.cells import Cell
from stages.entry import workers
from stages.layout import Layout
from stages.progress import Progress
from stages.tracking.tracked import tracked


def look_into(
    layout: Layout,
    cell: Cell,
    kind: str,
    job: Job[list[Findings]],
    settings: DiagnosisSettings,
    *,
    inputs: Mapping[str, Path],
    units: int,
    unit: str,
) -> None:
    """Run ``job`` over the seeds of the cell and write what it found; nothing is written where it fails.

    Args:
        layout: the project.
        cell: what is looked into.
        kind: of the artifact, for its ``meta.json``.
        job: looks into a share of the seeds.
        settings: how closely.
        inputs: name and folder of each input artifact.
        units: of work, of all seeds, for the bar.
        unit: what they are called.
    """
    seeds = parse_seeds(cell.seeds or "0")
    params = {"diagnosis": settings.model_dump(mode="json")}
    digests = {name: digest_folder(folder) for name, folder in inputs.items()}
    with tracked(layout, cell, params, digests) as live:
        with Progress(stage=cell.name, total=units, unit=unit) as bar:
            shares = over_seeds(job, seeds, workers(), lambda done, rows: bar.update(done))
        found = [one for share in shares for one in share]
        metrics = by_name(found)
        known = {
            name: {seed: value for seed, value in zip(seeds, values, strict=True) if value is not None}
            for name, values in metrics.items()
        }
        with new_artifact(cell.folder(layout)) as folder:
            write_findings(folder, found)
            write_json(folder / METRICS, metrics)
            write_json(folder / "readings.json", summarise(known, settings.confidence))
            rows = [row for one in found for row in one.curves]
            if rows:
                write_curves(folder / CURVES, rows)
            live.log_final(metrics)
            write_meta(folder, kind, params=params, inputs=digests, seeds=list(seeds))
