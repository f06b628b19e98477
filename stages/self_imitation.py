"""Improve the anchor by one rule: latent self-imitation, or a comparator (SPAR, stage iii).

Reads the dataset, the anchor, the residual model, the critic, and ``improvements.<improvement>`` of params.yaml.
Writes artifacts/policy/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: a policy that acts on raw
observations (see ``spar_core.load_policy``), and curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spar_core.artifacts import read_json
from spar_core.data.loading import SCALER
from spar_core.data.scaler import Scaler
from spar_core.improvement.base import Frozen
from spar_core.members import parse_variant, variant_kind
from spar_core.policy import KIND, save_policy
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import METRICS, Fitted, Part
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import cell_arguments, device, stage_main
from stages.fitting import fit_cell
from stages.layout import Layout
from stages.params import read_params
from stages.parts import load_part, restore_anchor, restore_critic, restore_residual


@dataclass(frozen=True)
class FitRule:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    member: type
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.cell.dataset)
        folders = self.cell.parts(self.layout)
        parts = {kind: load_part(folder, kind, seeds) for kind, folder in folders.items()}
        frozen = Frozen(
            restore_anchor(parts["anchor"], self.device),
            restore_residual(parts["residual"], self.device),
            restore_critic(parts["critic"], self.device),
        )
        return self.member.fit(Context(data, seeds, report, self.device), frozen, self.settings)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.self_imitation``."""
    args = cell_arguments(__doc__, "dataset", "anchor", "critic", "improvement").parse_args(argv)
    layout = Layout()
    variants = read_params(layout, args.dataset)["improvements"]
    member, settings = parse_variant("improvement", variants, args.improvement)
    kind = variant_kind(args.improvement, variants[args.improvement])
    cell = Cell("self_imitation", args.dataset, args.anchor, args.critic, args.improvement, args.seeds)
    seeds = parse_seeds(args.seeds)

    def write(folder: Path, fitted: Fitted) -> Fitted:
        parts = {name: load_part(path, name, seeds) for name, path in cell.parts(layout).items()}
        if not member.acts_with_critic(settings):
            del parts["critic"]
        for path in cell.parts(layout).values():
            # The policy carries the measures of its parts, so that evaluation and report need no other artifact.
            fitted.metrics.update(read_json(path / METRICS))
        parts["improvement"] = Part(kind, settings, fitted.tensors)
        scaler = Scaler.from_dict(read_json(layout.data(args.dataset) / SCALER))
        return save_policy(
            folder,
            parts=parts,
            fitted=fitted,
            seeds=seeds,
            scaler=scaler,
            observation_size=len(scaler.observation_mean),
        )

    fit_cell(
        layout,
        cell,
        KIND,
        FitRule(layout, cell, member, settings, device()),
        steps=getattr(settings, "steps", 0),
        params={"improvement": {"kind": kind, **settings.model_dump(mode="json")}},
        inputs={**dataset_folders(layout, args.dataset), **cell.parts(layout)},
        write=write,
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
