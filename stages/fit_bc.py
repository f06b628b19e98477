"""Clone the behaviour of a dataset: fit the frozen anchor.

Reads the dataset and ``anchors.<anchor>`` of params.yaml.
Writes artifacts/anchor/<dataset>/<anchor>/<seeds>/: weights, held-out error, learning curves.
"""

from __future__ import annotations

import sys

from stages.entry import parse_cell, stage_main
from stages.frame import fit_member
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_bc``."""
    fit_member(Layout(), parse_cell("fit_bc", __doc__, argv), "anchor")


if __name__ == "__main__":
    sys.exit(stage_main(run))
