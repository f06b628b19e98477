"""Fit the conservative critic and check its calibration on held-out episodes (SPAR, stage ii).

Reads the dataset and ``critics.<critic>`` of params.yaml; no anchor, so that one critic serves them all.
Writes artifacts/critic/<dataset>/<critic>/<seeds>/: weights, calibration, curves.
"""

from __future__ import annotations

import sys

from stages.cells import Cell
from stages.entry import cell_arguments, stage_main
from stages.fitting import fit_member
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_critic``."""
    args = cell_arguments(__doc__, "dataset", "critic").parse_args(argv)
    cell = Cell("fit_critic", args.dataset, critic=args.critic, seeds=args.seeds)
    fit_member(Layout(), cell, "critic", args.critic)


if __name__ == "__main__":
    sys.exit(stage_main(run))
