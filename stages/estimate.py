"""Value the final policy of a cell from the logged data alone, and measure its corrections there.

The stage computes two values, both at the first observations of the held-out episodes and for the policy's own actions:
fitted-Q evaluation, and the value of the study's critic, which is conservative by design. Neither is a return. On a
dataset without an environment they stand in for returns; elsewhere the report compares them with the returns.

Reads the dataset, the policy, the critic, and ``estimation`` of params.yaml.
Writes artifacts/estimate/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: estimates.json, corrections.csv.
"""

from __future__ import annotations

import sys

from spar_core.artifacts import read_meta
from spar_core.evaluation.estimation import EstimationSettings
from spar_core.making.estimates import make_estimate
from spar_core.policy import KIND
from stages.datasets import dataset_folders, place_of
from stages.entry import parse_cell, stage_main
from stages.frame import framed
from stages.layout import Layout
from stages.params import section


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.estimate``."""
    layout, cell = Layout(), parse_cell("estimate", __doc__, argv)
    settings = section(layout, "estimation", EstimationSettings, cell.dataset)
    folders = {**dataset_folders(layout, cell.dataset), **cell.folders(layout, "policy", "critic")}
    read_meta(folders["policy"], KIND)
    with framed(
        layout,
        cell,
        params={"estimation": settings.model_dump(mode="json")},
        inputs=folders,
        steps=None,
        keeps_checkpoints=False,
    ) as frame:
        make_estimate(frame, place_of(layout, cell.dataset), folders["policy"], folders["critic"], settings)


if __name__ == "__main__":
    sys.exit(stage_main(run))
