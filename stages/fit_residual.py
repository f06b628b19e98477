"""Fit the residual model G and its radius rho to what the anchor leaves unexplained (SPAR, stage i).

Reads the dataset, the anchor, and ``residual`` of params.yaml (with what the anchor's variant changes in it).
Writes artifacts/residual/<dataset>/<anchor>/<seeds>/: decoder, radius, curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.residual import ResidualSettings, fit_residual, settings_for
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import cell_arguments, device, stage_main
from stages.fitting import fit_cell
from stages.layout import Layout
from stages.params import read_params
from stages.parts import load_part, restore_anchor


@dataclass(frozen=True)
class FitResidual:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    settings: ResidualSettings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        cell, data = self.cell, dataset_of(self.layout, self.cell.dataset)
        part = load_part(self.layout.anchor(cell.dataset, cell.anchor, cell.seeds), "anchor", seeds)
        return fit_residual(Context(data, seeds, report, self.device), restore_anchor(part, self.device), self.settings)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_residual``."""
    args = cell_arguments(__doc__, "dataset", "anchor").parse_args(argv)
    layout = Layout()
    params = read_params(layout, args.dataset)
    settings = settings_for(args.anchor, params["residual"], params["anchors"])
    cell = Cell("fit_residual", args.dataset, anchor=args.anchor, seeds=args.seeds)
    fit_cell(
        layout,
        cell,
        "residual",
        FitResidual(layout, cell, settings, device()),
        steps=settings.steps,
        params={"residual": settings.model_dump(mode="json")},
        inputs={
            **dataset_folders(layout, args.dataset),
            "anchor": layout.anchor(args.dataset, args.anchor, args.seeds),
        },
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
