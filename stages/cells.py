"""Cells: the units of work of a study, each with one artifact folder, one code digest and one MLflow run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_value
from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.seeds import parse_seeds
from spar_core.study import EvaluationCell, Study
from stages.layout import Layout
from stages.table import AXES, STAGES, Stage, place


@dataclass(frozen=True)
class Cell:
    """One stage applied to one choice on each axis.

    Attributes:
        stage: name of the stage.
        dataset, anchor, critic, improvement, seeds: the choices; None on an axis that the stage does not have.
        round: how a round makes the anchor. It is no axis, since each such anchor is made in one way.

    Raises:
        SparError: ``seeds`` is no group of seeds.
    """

    stage: str
    dataset: str
    anchor: str | None = None
    critic: str | None = None
    improvement: str | None = None
    seeds: str | None = None
    round: Round | None = None

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"unknown stage {self.stage!r}")
        # The group names folders, so it is checked before one is made.
        _ = self.seed_numbers

    @property
    def name(self) -> str:
        """Name of the run within its dataset's experiment, such as ``fit_bc mlp 0-3``."""
        axes = (self.anchor, self.critic, self.improvement, self.seeds)
        return " ".join([self.stage, *(axis for axis in axes if axis)])

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds of the group: ``0-3`` is 0, 1, 2, 3, and ``1,4-5`` is 1, 4, 5."""
        return () if self.seeds is None else parse_seeds(self.seeds)

    def folder(self, layout: Layout, artifact: str | None = None) -> Path:
        """Where the cell's artifact lies, or the artifact of another kind on the same axes."""
        return layout.artifact(place(artifact or STAGES[self.stage].artifact, self))

    def folders(self, layout: Layout, *artifacts: str) -> dict[str, Path]:
        """Where artifacts on the cell's axes lie, by kind."""
        return {artifact: self.folder(layout, artifact) for artifact in artifacts}

    def tags(self) -> dict[str, str]:
        """MLflow tags that name the cell, for filters such as ``tags.anchor = 'mlp'``."""
        axes = {axis: getattr(self, axis) for axis in AXES}
        taught = {f"spar.round.{name}": value for name, value in self.round or () if name != "anchor"}
        return {"spar.stage": self.stage, **{axis: value for axis, value in axes.items() if value}, **taught}

    def code_digest(self, plan: Mapping[str, Any]) -> str:
        """The digest of the code that makes this cell, from the content of ``plan.json``.

        Raises:
            SparError: ``plan.json`` lacks the stage or one of its members.
        """
        code = plan.get("code", {})
        entries = [code.get("stage", {}).get(self.stage)]
        entries += [code.get(family, {}).get(name) for family, name in self.members().items()]
        if None in entries:
            raise SparError(f"artifacts/plan.json has no code digest for '{self.name}'", "run `dvc repro`")
        return digest_value(entries)

    def members(self) -> dict[str, str]:
        """The variants whose code the cell runs, by family."""
        families = STAGES[self.stage].members
        return {family: getattr(self, family) or getattr(self.round, family) for family in families}


def cell_digest(params: Mapping[str, Any], inputs: Mapping[str, str], code_digest: str) -> str:
    """Identity of a cell, which is the same before training as from its ``meta.json`` afterwards."""
    return digest_value({"params": params, "inputs": inputs, "code": code_digest})


def study_cells(study: Study) -> list[Cell]:
    """All cells of a study, in pipeline order.

    Within a dataset, the cells of the study's own anchors come first, then those of each round.
    """
    rounds = {made.anchor: made for made in study.rounds}
    cells: list[Cell] = []
    for _, group in itertools.groupby(study.cells(), lambda policy: (policy.dataset, rounds.get(policy.anchor))):
        policies = list(group)
        for stage in STAGES.values():
            cells += [_cell(stage, policy, rounds) for policy in policies if stage.serves(policy, study)]
    return list(dict.fromkeys(cells))


def _cell(stage: Stage, policy: EvaluationCell, rounds: Mapping[str, Round]) -> Cell:
    """The cell of a stage that a policy needs."""
    made = rounds.get(policy.anchor) if stage.anchors == "rounds" else None
    return Cell(stage.name, **{axis: getattr(policy, axis) for axis in stage.axes}, round=made)
