"""Write a report to disk."""

from __future__ import annotations

from pathlib import Path

from spar_core.artifacts import new_artifact
from spar_core.reporting.page.render import Report


def write_report(report: Report, folder: Path) -> None:
    """Write a report into ``folder``; each file, and the folder of figures, appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with new_artifact(folder / "figures") as draft:
        for name, data in report.figures.items():
            (draft / name).write_bytes(data)
    for name, data in report.files.items():
        draft_file = folder / f".{name}.draft"
        draft_file.write_bytes(data)
        draft_file.replace(folder / name)
