"""Cells: the units of work of a study, each with one artifact folder, one code digest and one MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spar_core.artifacts import digest_value
from spar_core.errors import SparError
from spar_core.evolving.rounds import Round
from spar_core.seeds import parse_seeds
from spar_core.study import Study
from stages.layout import Layout

# The members whose code a stage runs, beside its own; the same entries of plan.json stand in dvc.yaml.
_MEMBERS: dict[str, tuple[str, ...]] = {
    "download": (),
    "fit_bc": ("anchor",),
    "fit_residual": ("anchor",),
    "fit_critic": ("critic",),
    "self_imitation": ("anchor", "critic", "improvement"),
    "reanchor": ("anchor", "critic", "improvement"),
    "evaluate": ("anchor", "critic", "improvement"),
    "estimate": ("anchor", "critic", "improvement"),
    "geometry": ("anchor",),
    "diagnose": ("anchor", "critic", "improvement"),
}
STAGES = tuple(_MEMBERS)
AXES = ("dataset", "anchor", "critic", "improvement", "seeds")


@dataclass(frozen=True)
class Cell:
    """One stage applied to one choice on each axis; an axis that the stage does not have is None."""

    stage: str
    dataset: str
    anchor: str | None = None
    critic: str | None = None
    improvement: str | None = None
    seeds: str | None = None
    # Where the anchor is one that a round makes: how. It is no axis, since each such anchor is made in one way.
    round: Round | None = None

    def __post_init__(self) -> None:
        if self.stage not in _MEMBERS:
            raise ValueError(f"unknown stage {self.stage!r}")

    @property
    def name(self) -> str:
        """What the run is called within its dataset's experiment, such as ``fit_bc mlp 0-3``."""
        axes = (self.anchor, self.critic, self.improvement, self.seeds)
        return " ".join([self.stage, *(axis for axis in axes if axis)])

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds of the group: ``0-3`` is 0, 1, 2, 3, and ``1,4-5`` is 1, 4, 5."""
        return parse_seeds(self.seeds) if self.seeds else ()

    def folder(self, layout: Layout) -> Path:
        """Where the cell's artifact lies."""
        dataset, anchor, critic = self.dataset, self.anchor or "", self.critic or ""
        improvement, seeds = self.improvement or "", self.seeds or ""
        if self.stage == "download":
            return layout.data(dataset)
        if self.stage in ("fit_bc", "reanchor"):
            return layout.anchor(dataset, anchor, seeds)
        if self.stage == "fit_residual":
            return layout.residual(dataset, anchor, seeds)
        if self.stage == "fit_critic":
            return layout.critic(dataset, critic, seeds)
        if self.stage == "self_imitation":
            return layout.policy(dataset, anchor, critic, improvement, seeds)
        if self.stage == "estimate":
            return layout.estimate(dataset, anchor, critic, improvement, seeds)
        if self.stage == "geometry":
            return layout.geometry(dataset, anchor, seeds)
        if self.stage == "diagnose":
            return layout.diagnosis(dataset, anchor, critic, improvement, seeds)
        return layout.evaluation(dataset, anchor, critic, improvement, seeds)

    def parts(self, layout: Layout) -> dict[str, Path]:
        """Folders of the frozen parts that an improved cell stands on."""
        dataset, anchor, critic, seeds = self.dataset, self.anchor or "", self.critic or "", self.seeds or ""
        return {
            "anchor": layout.anchor(dataset, anchor, seeds),
            "residual": layout.residual(dataset, anchor, seeds),
            "critic": layout.critic(dataset, critic, seeds),
        }

    def tags(self) -> dict[str, str]:
        """MLflow tags that name the cell, for filters such as ``tags.anchor = 'mlp'``."""
        axes = {axis: getattr(self, axis) for axis in AXES}
        taught = {f"spar.round.{name}": value for name, value in self.round or () if name != "anchor"}
        return {"spar.stage": self.stage, **{axis: value for axis, value in axes.items() if value}, **taught}

    def code_digest(self, plan: Mapping[str, Any]) -> str:
        """The digest of the code that makes this cell, out of the content of ``plan.json``."""
        code = plan.get("code", {})
        entries = [code.get("stage", {}).get(self.stage)]
        names = {family: getattr(self, family) or getattr(self.round, family, None) for family in _MEMBERS[self.stage]}
        entries += [code.get(family, {}).get(name) for family, name in names.items()]
        if None in entries:
            raise SparError(f"artifacts/plan.json has no code digest for '{self.name}'", "run `dvc repro`")
        return digest_value(entries)


def cell_digest(params: Mapping[str, Any], inputs: Mapping[str, str], code_digest: str) -> str:
    """A cell's identity, the same before training as from its ``meta.json`` afterwards."""
    return digest_value({"params": params, "inputs": inputs, "code": code_digest})


def study_cells(study: Study) -> list[Cell]:
    """All cells of a study (datasets, anchors, critics, improvements, seed groups), in pipeline order."""
    cells: list[Cell] = []
    for dataset in study.datasets:
        cells.append(Cell("download", dataset))
        for stage in ("fit_bc", "fit_residual"):
            cells += [Cell(stage, dataset, anchor=a, seeds=s) for a in study.anchors for s in study.seeds]
        cells += [Cell("fit_critic", dataset, critic=c, seeds=s) for c in study.critics for s in study.seeds]
        if dataset in study.diagnosed:
            cells += [Cell("geometry", dataset, anchor=a, seeds=s) for a in study.anchors for s in study.seeds]
        lists = {"estimate": study.estimated, "diagnose": study.diagnosed}
        asked = [stage for stage, datasets in lists.items() if dataset in datasets]
        for stage in ("self_imitation", "evaluate", *asked):
            cells += [
                Cell(stage, dataset, a, c, i, s)
                for a in study.anchors
                for c in study.critics
                for i in study.rules(a)
                for s in study.seeds
            ]
        for made in study.rounds:
            cells += _round_cells(study, dataset, made)
    return list(dict.fromkeys(cells))


def _round_cells(study: Study, dataset: str, made: Round) -> list[Cell]:
    """The cells of one round: how its anchor is made, and what stands on it."""
    cells = [Cell("reanchor", dataset, anchor=made.anchor, seeds=s, round=made) for s in study.seeds]
    cells += [Cell("fit_residual", dataset, anchor=made.anchor, seeds=s) for s in study.seeds]
    for stage in ("self_imitation", "evaluate", *(["estimate"] if dataset in study.estimated else [])):
        rules = study.rules(made.anchor)
        cells += [Cell(stage, dataset, made.anchor, made.critic, i, s) for i in rules for s in study.seeds]
    return cells
