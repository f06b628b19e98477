"""Look into what a cell's rule does: distance to the data, directions of its moves, gradients, candidates.

Gradients need what happened during training, so that is repeated, watched; the weights have to come out the same to the
last bit, or the stage refuses. Rules that train no network of their own are not repeated.

Reads the dataset, anchor, residual model, critic and policy, and ``diagnosis`` of params.yaml. Writes
artifacts/diagnosis/<dataset>/<anchor>/<critic>/<improvement>/<seeds>/: measures.csv, profiles.csv,
readings.json, metrics.json, and curves.csv with the gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spar_core.artifacts import read_json, read_meta
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.diagnostics.diagnosis import Subject, add_gradients, diagnosis_of
from spar_core.diagnostics.geometry import neighbourhoods
from spar_core.diagnostics.measures import Findings
from spar_core.diagnostics.repeat import Watcher, probe_steps, refuse_difference
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.states import states_at
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen
from spar_core.members import load_member
from spar_core.policy import KIND, POLICY
from spar_core.seeds import parse_seeds
from spar_core.settings import Settings, parse
from spar_core.training.checkpoints import CurveRow
from spar_core.training.context import Context
from spar_core.training.fitted import WEIGHTS, load_tensors, only
from spar_core.training.reporter import Reporter
from stages.cells import Cell
from stages.datasets import dataset_folders, dataset_of
from stages.diagnosing import look_into
from stages.entry import cell_arguments, device, stage_main
from stages.layout import Layout
from stages.params import section
from stages.parts import load_part, restore_anchor, restore_critic, restore_residual


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
        cell = self.cell
        axes = (cell.dataset, cell.anchor or "", cell.critic or "", cell.improvement or "", cell.seeds or "")
        return self.layout.policy(*axes)

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
        parts = {kind: load_part(folder, kind, seeds) for kind, folder in self.cell.parts(self.layout).items()}
        return Frozen(
            restore_anchor(parts["anchor"], self.device),
            restore_residual(parts["residual"], self.device),
            restore_critic(parts["critic"], self.device),
        )

    def _repeat(
        self,
        dataset: Dataset,
        data: DeviceData,
        member: type,
        tensors: dict,
        frozen: dict[int, Frozen],
        seeds: Sequence[int],
        report: Reporter,
    ) -> list[CurveRow]:
        """Train again and compare; the rows of compared gradients. Nothing where nothing was trained."""
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
    """Optimiser steps of a repeated training; 0 where none is repeated.

    A rule that chooses among several has no such setting: to repeat it would fit them all, and each can be diagnosed as
    a rule of its own.
    """
    return rule.steps if settings.probes and "steps" in type(rule).model_fields else 0


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.diagnose``."""
    args = cell_arguments(__doc__, "dataset", "anchor", "critic", "improvement").parse_args(argv)
    layout = Layout()
    settings = section(layout, "diagnosis", DiagnosisSettings, args.dataset)
    cell = Cell("diagnose", args.dataset, args.anchor, args.critic, args.improvement, args.seeds)
    policy = layout.policy(*vars(args).values())
    read_meta(policy, KIND)
    part = read_json(policy / POLICY)["parts"]["improvement"]
    rule = parse(load_member("improvement", part["kind"]).Settings, part["settings"], f"{policy / POLICY}, improvement")
    look_into(
        layout,
        cell,
        "diagnosis",
        LookAtRule(layout, cell, part["kind"], rule, settings, device()),
        settings,
        inputs={**dataset_folders(layout, args.dataset), **cell.parts(layout), "policy": policy},
        units=(steps_to_repeat(rule, settings) + 1) * len(parse_seeds(args.seeds)),
        unit="seed-steps",
    )


if __name__ == "__main__":
    sys.exit(stage_main(run))
