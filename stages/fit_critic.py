"""Fit the conservative critic and check its calibration on held-out episodes (SPAR, stage ii).

Reads the dataset and ``critics.<critic>`` of params.yaml. No anchor enters, so one critic serves all anchors.
Writes artifacts/critic/<dataset>/<critic>/<seeds>/: weights, calibration, curves.
"""

from __future__ import annotations

import sys

from stages.entry import parse_cell, stage_main
from stages.frame import fit_member
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_critic``."""
    fit_member(Layout(), parse_cell("fit_critic", __doc__, argv), "critic")


if __name__ == "__main__":
    sys.exit(stage_main(run))
