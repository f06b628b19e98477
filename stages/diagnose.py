"""Measure what a cell's rule does: distance to the data, directions of its moves, gradients, candidates.

Training recorded the gradients in the policy's learning curves.

Reads the dataset, anchor, residual model, critic and policy, and ``diagnosis`` of params.yaml.
Writes artifacts/diagnosis/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: measures.csv, profiles.csv,
readings.json, metrics.json, and curves.csv with the gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spar_core.artifacts import read_json, read_meta
from spar_core.curves import read_curves
from spar_core.data.device import DeviceData
from spar_core.diagnostics.diagnosis import Subject, add_gradients, diagnosis_of
from spar_core.diagnostics.geometry import neighbourhoods
from spar_core.diagnostics.measures import Findings
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.writing import write_diagnosis
from spar_core.policy import FROZEN, KIND, POLICY, load_frozen
from spar_core.registry import load_member
from spar_core.settings import Settings, parse
from spar_core.training.fitted import CURVES, WEIGHTS, load_tensors, only
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.entry import device, parse_cell, stage_main
from stages.frame import Written, framed
from stages.layout import Layout
from stages.params import section


@dataclass(frozen=True)
class LookAtRule:
    """The work of one worker."""

    layout: Layout
    cell: Cell
    kind: str
    rule: Settings
    settings: DiagnosisSettings
    device: str

    @property
    def policy(self) -> Path:
        """The artifact of the diagnosed policy."""
        return self.cell.folder(self.layout, "policy")

    def __call__(self, seeds: Sequence[int], report: Reporter) -> list[Findings]:
        dataset = dataset_of(self.layout, self.cell.dataset)
        data, similar = DeviceData.of(dataset, self.device), neighbourhoods(dataset, self.settings)
        member = load_member("improvement", self.kind)
        held = read_meta(self.policy, KIND)["seeds"]
        rows = [held.index(seed) for seed in seeds]
        saved = only("improvement", load_tensors(self.policy / WEIGHTS))
        tensors = {name: value[rows] for name, value in saved.items()}
        curves = read_curves(self.policy / CURVES)
        found = []
        for row, seed in enumerate(seeds):
            parts = load_frozen(self.cell.folders(self.layout, *FROZEN), [seed], self.device)
            mine = {name: value[row : row + 1] for name, value in tensors.items()}
            subject = Subject(seed, member.restore(parts, self.rule, mine, self.device), parts)
            findings = diagnosis_of(dataset, data, subject, self.settings, similar)
            add_gradients(findings, curves)
            found.append(findings)
            report.advance(1)
        return found


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.diagnose``."""
    layout, cell = Layout(), parse_cell("diagnose", __doc__, argv)
    settings = section(layout, "diagnosis", DiagnosisSettings, cell.dataset)
    policy = cell.folder(layout, "policy")
    read_meta(policy, KIND)
    part = read_json(policy / POLICY)["parts"]["improvement"]
    rule = parse(load_member("improvement", part["kind"]).Settings, part["settings"], f"{policy / POLICY}, improvement")
    with framed(
        layout,
        cell,
        params={"diagnosis": settings.model_dump(mode="json")},
        inputs={**dataset_folders(layout, cell.dataset), **cell.folders(layout, *FROZEN, "policy")},
        steps=1,
        unit="seeds",
        keeps_checkpoints=False,
    ) as frame:
        shares = frame.over_seeds(LookAtRule(layout, cell, part["kind"], rule, settings, device()))
        found = [one for share in shares for one in share]
        frame.save("diagnosis", lambda folder: Written(write_diagnosis(folder, found, settings.confidence)))


if __name__ == "__main__":
    sys.exit(stage_main(run))
