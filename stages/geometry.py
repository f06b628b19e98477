"""Look into the geometry of an anchor's residuals: distribution, dimension, modes, and how the decoder moves.

No critic and no rule is involved: the anchor, its residual model and the data are.

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
from spar_core.improvement.base import Frozen
from spar_core.seeds import parse_seeds
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.diagnosing import look_into
from stages.entry import cell_arguments, device, stage_main
from stages.layout import Layout
from stages.params import section
from stages.parts import load_part, restore_anchor, restore_residual


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
        folders = self.cell.parts(self.layout)
        found = []
        for seed in seeds:
            parts = {kind: load_part(folders[kind], kind, [seed]) for kind in ("anchor", "residual")}
            frozen = Frozen(
                restore_anchor(parts["anchor"], self.device), restore_residual(parts["residual"], self.device), None
            )
            found.append(geometry_of(dataset, data, frozen, self.settings, seed, similar))
            report.advance(1)
        return found


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.geometry``."""
    args = cell_arguments(__doc__, "dataset", "anchor").parse_args(argv)
    layout = Layout()
    settings = section(layout, "diagnosis", DiagnosisSettings, args.dataset)
    cell = Cell("geometry", args.dataset, anchor=args.anchor, seeds=args.seeds)
    folders = {kind: folder for kind, folder in cell.parts(layout).items() if kind != "critic"}
    look_into(
        layout,
        cell,
        "geometry",
        LookAtResiduals(layout, cell, settings, device()),
        settings,
        inputs={**dataset_folders(layout, args.dataset), **folders},
        units=len(parse_seeds(args.seeds)),
        unit="seeds",
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
