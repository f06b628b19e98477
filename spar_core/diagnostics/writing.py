"""Write all that was measured of a cell into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spar_core.artifacts import write_json
from spar_core.diagnostics.measures import Findings, by_name, write_findings
from spar_core.diagnostics.summary import summarise
from spar_core.training.fitted import CURVES, METRICS, write_curves


def write_diagnosis(folder: Path, found: Sequence[Findings], confidence: float) -> dict[str, list[float | None]]:
    """Write measures.csv, profiles.csv, metrics.json and readings.json, and curves.csv where curves were measured.

    Args:
        folder: an empty folder.
        found: one entry a seed.
        confidence: of the intervals over seeds.

    Returns:
        The content of metrics.json: values by name, one a seed; None where a value is missing.
    """
    metrics = by_name(found)
    known = {
        name: {one.seed: value for one, value in zip(found, values, strict=True) if value is not None}
        for name, values in metrics.items()
    }
    write_findings(folder, found)
    write_json(folder / METRICS, metrics)
    write_json(folder / "readings.json", summarise(known, confidence))
    rows = [row for one in found for row in one.curves]
    if rows:
        write_curves(folder / CURVES, rows)
    return metrics
