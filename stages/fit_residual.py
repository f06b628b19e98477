"""Fit the residual model G and its radius rho to what the anchor leaves unexplained (SPAR, stage i).

Reads the dataset, the anchor, and ``residual`` of params.yaml, with the changes that the anchor's variant makes in it.
Writes artifacts/residual/<dataset>/<anchor>/<seeds>/: decoder, radius, curves.
"""

from __future__ import annotations

import sys

from spar_core.making.residuals import make_residual
from spar_core.residual import settings_for
from stages.datasets import dataset_folders, place_of
from stages.entry import parse_cell, stage_main
from stages.frame import framed
from stages.layout import Layout
from stages.params import read_params


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_residual``."""
    layout, cell = Layout(), parse_cell("fit_residual", __doc__, argv)
    params = read_params(layout, cell.dataset)
    settings = settings_for(str(cell.anchor), params["residual"], params["anchors"])
    folders = cell.folders(layout, "anchor")
    with framed(
        layout,
        cell,
        params={"residual": settings.model_dump(mode="json")},
        inputs={**dataset_folders(layout, cell.dataset), **folders},
        steps=settings.steps,
        curves=True,
    ) as frame:
        make_residual(frame, place_of(layout, cell.dataset), folders["anchor"], settings)


if __name__ == "__main__":
    sys.exit(stage_main(run))
