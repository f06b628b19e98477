"""Improve the anchor by one rule: latent self-imitation, or a comparator (SPAR, stage iii).

Reads the dataset, the anchor, the residual model, the critic, and ``improvements.<improvement>`` of params.yaml.
Writes artifacts/policy/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: a policy that acts on raw observations (see
``spar_core.load_policy``), and learning curves.
"""

from __future__ import annotations

import sys

from spar_core.making.policies import make_policy
from spar_core.policy import FROZEN
from spar_core.registry import parse_variant, variant_kind
from stages.datasets import dataset_folders, place_of
from stages.entry import parse_cell, stage_main
from stages.frame import framed
from stages.layout import Layout
from stages.params import read_params


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.self_imitation``."""
    layout, cell = Layout(), parse_cell("self_imitation", __doc__, argv)
    name, variants = str(cell.improvement), read_params(layout, cell.dataset)["improvements"]
    member, settings = parse_variant("improvement", variants, name)
    kind = variant_kind(name, variants[name])
    folders = cell.folders(layout, *FROZEN)
    with framed(
        layout,
        cell,
        params={"improvement": {"kind": kind, **settings.model_dump(mode="json")}},
        inputs={**dataset_folders(layout, cell.dataset), **folders},
        steps=getattr(settings, "steps", 0),
        curves=True,
    ) as frame:
        make_policy(frame, place_of(layout, cell.dataset), folders, kind, member, settings)


if __name__ == "__main__":
    sys.exit(stage_main(run))
