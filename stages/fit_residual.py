"""Fit the residual model G and its radius rho to what the anchor leaves unexplained (SPAR, stage i).

Reads the dataset, the anchor, and ``residual`` of params.yaml, with the changes that the anchor's variant makes in it.
Writes artifacts/residual/<dataset>/<anchor>/<seeds>/: decoder, radius, curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.parts import load_part, restore_anchor
from spar_core.residual import ResidualSettings, fit_residual, settings_for
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import device, parse_cell, stage_main
from stages.frame import framed
from stages.layout import Layout
from stages.params import read_params


@dataclass(frozen=True)
class FitResidual:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    settings: ResidualSettings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.cell.dataset)
        part = load_part(self.cell.folder(self.layout, "anchor"), "anchor", seeds)
        return fit_residual(Context(data, seeds, report, self.device), restore_anchor(part, self.device), self.settings)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_residual``."""
    layout, cell = Layout(), parse_cell("fit_residual", __doc__, argv)
    params = read_params(layout, cell.dataset)
    settings = settings_for(str(cell.anchor), params["residual"], params["anchors"])
    with framed(
        layout,
        cell,
        params={"residual": settings.model_dump(mode="json")},
        inputs={**dataset_folders(layout, cell.dataset), **cell.folders(layout, "anchor")},
        steps=settings.steps,
        curves=True,
    ) as frame:
        fitted = frame.fit(FitResidual(layout, cell, settings, device()), "residual")
        frame.save_fitted("residual", fitted)


if __name__ == "__main__":
    sys.exit(stage_main(run))
