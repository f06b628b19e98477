"""Measure what a cell's rule does: distance to the data, directions of its moves, gradients, candidates.

Gradients are measured while the training of the rule is repeated. The repeated weights must equal those of the policy
to the last bit, or the stage fails. A rule that trains no network of its own is not repeated.

Reads the dataset, anchor, residual model, critic and policy, and ``diagnosis`` of params.yaml.
Writes artifacts/diagnosis/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: measures.csv, profiles.csv,
readings.json, metrics.json, and curves.csv with the gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.diagnostics.diagnosis import Subject, add_gradients, diagnosis_of
from spar_core.diagnostics.geometry import neighbourhoods
from spar_core.diagnostics.measures import Findings
from spar_core.diagnostics.repeat import Watcher, probe_steps, refuse_difference
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.states import states_at
from spar_core.diagnostics.writing import write_diagnosis
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen
from spar_core.policy import FROZEN, KIND, POLICY, load_frozen
from spar_core.registry import load_member
from spar_core.settings import Settings, parse
from spar_core.training.checkpoints import CurveRow
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors, only
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
        frozen = {seed: self._frozen([seed]) for seed in seeds}
        compared = self._repeat(dataset, data, member, tensors, frozen, seeds, report)
        found = []
        for row, (seed, parts) in enumerate(frozen.items()):
            mine = {name: value[row : row + 1] for name, value in tensors.items()}
            subject = Subject(seed, member.restore(parts, self.rule, mine, self.device), parts)
            findings = diagnosis_of(dataset, data, subject, self.settings, similar)
            add_gradients(findings, compared)
            found.append(findings)
            report.advance(1)
        return found

    def _frozen(self, seeds: Sequence[int]) -> Frozen:
        return load_frozen(self.cell.folders(self.layout, *FROZEN), seeds, self.device)

    def _repeat(
        self,
        dataset: Dataset,
        data: DeviceData,
        member: type[Any],
        tensors: dict[str, Tensor],
        frozen: dict[int, Frozen],
        seeds: Sequence[int],
        report: Reporter,
    ) -> list[CurveRow]:
        """Train again and compare the weights; return the rows of compared gradients, or none without a training."""
        steps = steps_to_repeat(self.rule, self.settings)
        if not steps:
            return []
        train = dataset.train_steps
        chosen = evenly(train, self.settings.probe_states)
        probes = [states_at(dataset, data, parts, chosen).probe(seed) for seed, parts in frozen.items()]
        at = probe_steps(steps, self.settings.probes) if member.follows_critic(self.rule) else []
        watcher = Watcher(
            seeds,
            member=member,
            settings=self.rule,
            frozen=list(frozen.values()),
            probes=probes,
            at=frozenset(at),
            forward=report.advance,
        )
        fitted = member.fit(Context(dataset, seeds, watcher, self.device), self._frozen(seeds), self.rule)
        refuse_difference(fitted, tensors, seeds, str(self.policy))
        return watcher.compared


def steps_to_repeat(rule: Settings, settings: DiagnosisSettings) -> int:
    """Optimiser steps of a repeated training; 0 for a training that is not repeated.

    A rule that chooses among several has no setting ``steps`` and is not repeated. Each of its candidates can be
    diagnosed as a rule of its own.
    """
    return getattr(rule, "steps", 0) if settings.probes else 0


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
        steps=steps_to_repeat(rule, settings) + 1,
        keeps_checkpoints=False,
    ) as frame:
        shares = frame.over_seeds(LookAtRule(layout, cell, part["kind"], rule, settings, device()))
        found = [one for share in shares for one in share]
        frame.save("diagnosis", lambda folder: Written(write_diagnosis(folder, found, settings.confidence)))


if __name__ == "__main__":
    sys.exit(stage_main(run))
