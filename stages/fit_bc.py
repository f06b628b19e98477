"""Clone the behaviour of a dataset: fit the frozen anchor.

Reads the dataset and ``anchors.<anchor>`` of params.yaml.
Writes artifacts/anchor/<dataset>/<anchor>/<seeds>/: weights, held-out error, learning curves.
"""

from __future__ import annotations

import sys

from stages.cells import Cell
from stages.entry import cell_arguments, stage_main
from stages.fitting import fit_member
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_bc``."""
    args = cell_arguments(__doc__, "dataset", "anchor").parse_args(argv)
    cell = Cell("fit_bc", args.dataset, anchor=args.anchor, seeds=args.seeds)
    fit_member(Layout(), cell, "anchor", args.anchor)


if __name__ == "__main__":
    sys.exit(stage_main(run))
