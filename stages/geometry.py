"""Measure the geometry of an anchor's residuals: distribution, dimension, modes, and how the decoder moves.

Only the anchor, its residual model and the data are used, and no critic and no rule.

Reads the dataset, the anchor, the residual model, and ``diagnosis`` of params.yaml.
Writes artifacts/geometry/<dataset>/<anchor>/<seeds>/: measures.csv, profiles.csv, readings.json, metrics.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.data.device import DeviceData
from spar_core.diagnostics.geometry import geometry_of, neighbourhoods
from spar_core.diagnostics.measures import Findings
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.writing import write_diagnosis
from spar_core.policy import load_frozen
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import device, parse_cell, stage_main
from stages.frame import Written, framed
from stages.layout import Layout
from stages.params import section


@dataclass(frozen=True)
class LookAtResiduals:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    settings: DiagnosisSettings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[Findings]:
        dataset = dataset_of(self.layout, self.cell.dataset)
        data, similar = DeviceData.of(dataset, self.device), neighbourhoods(dataset, self.settings)
        folders = self.cell.folders(self.layout, "anchor", "residual")
        found = []
        for seed in seeds:
            frozen = load_frozen(folders, [seed], self.device)
            found.append(geometry_of(dataset, data, frozen, self.settings, seed, similar))
            report.advance(1)
        return found


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.geometry``."""
    layout, cell = Layout(), parse_cell("geometry", __doc__, argv)
    settings = section(layout, "diagnosis", DiagnosisSettings, cell.dataset)
    with framed(
        layout,
        cell,
        params={"diagnosis": settings.model_dump(mode="json")},
        inputs={**dataset_folders(layout, cell.dataset), **cell.folders(layout, "anchor", "residual")},
        steps=1,
        unit="seeds",
        keeps_checkpoints=False,
    ) as frame:
        shares = frame.over_seeds(LookAtResiduals(layout, cell, settings, device()))
        found = [one for share in shares for one in share]
        frame.save("geometry", lambda folder: Written(write_diagnosis(folder, found, settings.confidence)))


if __name__ == "__main__":
    sys.exit(stage_main(run))
