"""Improve the anchor by one rule: latent self-imitation, or a comparator (SPAR, stage iii).

Reads the dataset, the anchor, the residual model, the critic, and ``improvements.<improvement>`` of params.yaml.
Writes artifacts/policy/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: a policy that acts on raw observations (see
``spar_core.load_policy``), and learning curves.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json
from spar_core.data.loading import MANIFEST, SCALER
from spar_core.data.scaler import Scaler
from spar_core.improvement.gradients import GradientReporter
from spar_core.interface import Interface
from spar_core.parts import load_part
from spar_core.policy import FROZEN, KIND, load_frozen, save_policy
from spar_core.registry import parse_variant, variant_kind
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import METRICS, Fitted, Part
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import device, parse_cell, stage_main
from stages.frame import Written, framed
from stages.layout import Layout
from stages.params import read_params


@dataclass(frozen=True)
class FitRule:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    member: type[Any]
    settings: Settings
    device: str

    def __call__(self, seeds: Sequence[int], report: Reporter) -> Fitted:
        data = dataset_of(self.layout, self.cell.dataset)
        folders = self.cell.folders(self.layout, *FROZEN)
        if self.member.follows_critic(self.settings):
            alone = [load_frozen(folders, [seed], self.device) for seed in seeds]
            report = GradientReporter(report, self.member, self.settings, alone, data)
        frozen = load_frozen(folders, seeds, self.device)
        fitted: Fitted = self.member.fit(Context(data, seeds, report, self.device), frozen, self.settings)
        return fitted


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
        fitted = frame.fit(FitRule(layout, cell, member, settings, device()), "improvement")

        def write(folder: Path) -> Written:
            parts = {family: load_part(path, family, frame.seeds) for family, path in folders.items()}
            if not member.acts_with_critic(settings):
                del parts["critic"]
            for path in folders.values():
                # The policy carries the metrics of its parts, so that evaluation and report need no other artifact.
                fitted.metrics.update(read_json(path / METRICS))
            parts["improvement"] = Part(kind, settings, fitted.tensors)
            data = layout.data(cell.dataset)
            scaler = Scaler.from_dict(read_json(data / SCALER))
            interface = Interface.of_manifest(read_json(data / MANIFEST))
            policy = save_policy(
                folder, parts=parts, fitted=fitted, seeds=frame.seeds, scaler=scaler, interface=interface
            )
            return Written.of(policy)

        frame.save(KIND, write)


if __name__ == "__main__":
    sys.exit(stage_main(run))
