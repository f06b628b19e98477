"""Clone the behaviour of a dataset: fit the frozen anchor.

Reads the dataset and ``anchors.<anchor>`` of params.yaml.
Writes artifacts/anchor/<dataset>/<anchor>/<seeds>/: weights, held-out error, learning curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.fitted import Fitted
from spar_core.members import parse_variant, variant_kind
from spar_core.reporter import Reporter
from spar_core.settings import Settings
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import cell_arguments, device, stage_main
from stages.fitting import fit_cell
from stages.layout import Layout
from stages.params import read_params


@dataclass(frozen=True)
class FitAnchor:
    """The work of one worker."""

    layout: Layout
    dataset: str
    member: type
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.dataset)
        return self.member.fit(data, self.settings, seeds, report, self.device)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.fit_bc``."""
    args = cell_arguments(__doc__, "dataset", "anchor").parse_args(argv)
    layout = Layout()
    variants = read_params(layout)["anchors"]
    member, settings = parse_variant("anchor", variants, args.anchor)
    kind = variant_kind(args.anchor, variants[args.anchor])
    fit_cell(
        layout,
        Cell("fit_bc", args.dataset, anchor=args.anchor, seeds=args.seeds),
        "anchor",
        FitAnchor(layout, args.dataset, member, settings, device()),
        steps=getattr(settings, "steps", 0),
        params={"anchor": {"kind": kind, **settings.model_dump(mode="json")}},
        inputs=dataset_folders(layout, args.dataset),
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
