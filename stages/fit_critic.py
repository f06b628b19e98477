"""Fit the conservative critic and check its calibration on held-out episodes (SPAR, stage ii).

Reads the dataset and ``critics.<critic>`` of params.yaml; no anchor, so that one critic serves them all.
Writes artifacts/critic/<dataset>/<critic>/<seeds>/: weights, calibration, curves.
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
class FitCritic:
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
    """Entry point of ``python -m stages.fit_critic``."""
    args = cell_arguments(__doc__, "dataset", "critic").parse_args(argv)
    layout = Layout()
    variants = read_params(layout)["critics"]
    member, settings = parse_variant("critic", variants, args.critic)
    kind = variant_kind(args.critic, variants[args.critic])
    fit_cell(
        layout,
        Cell("fit_critic", args.dataset, critic=args.critic, seeds=args.seeds),
        "critic",
        FitCritic(layout, args.dataset, member, settings, device()),
        steps=getattr(settings, "steps", 0) + getattr(settings, "warm_start_steps", 0),
        params={"critic": {"kind": kind, **settings.model_dump(mode="json")}},
        inputs=dataset_folders(layout, args.dataset),
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
