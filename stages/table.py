"""The stages whose cells a study spans, in pipeline order.

Cells, paths of artifacts, pruning, costs, tracking and the report follow from this table. To add a stage, add its entry
here, its module ``stages/<name>.py`` and its text in ``dvc.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from spar_core.evolving.rounds import Round

AXES = ("dataset", "anchor", "critic", "improvement", "seeds")
# Axes whose values are registered members.
FAMILIES = ("anchor", "critic", "improvement")


class Policy(Protocol):
    """A policy that the study evaluates, such as :class:`spar_core.study.EvaluationCell`."""

    @property
    def dataset(self) -> str: ...
    @property
    def anchor(self) -> str: ...


class Lists(Protocol):
    """The lists of a study that choose among its policies (see :class:`spar_core.study.Study`)."""

    @property
    def estimated(self) -> tuple[str, ...]: ...
    @property
    def diagnosed(self) -> tuple[str, ...]: ...
    @property
    def rounds(self) -> tuple[Round, ...]: ...


@dataclass(frozen=True)
class Stage:
    """One kind of cell.

    Attributes:
        name: of the stage in ``dvc.yaml``, and of its module.
        artifact: kind of artifact that a cell makes; the artifacts lie in ``artifacts/<artifact>/``.
        axes: a cell is one combination of values on these axes.
        asked_by: the study's list that names the datasets on which the stage runs; None means all datasets.
        anchors: whether the stage runs for the anchors of ``study.anchors``, for those that rounds make, or for both.
        reported: whether the report reads the artifacts. ``stages.plan`` removes those of cells that left the study.
        timed: whether the cost of a rule includes the time of this stage.
        wide: whether a sweep gives a cell one worker process for each core, whatever runs beside it. Nearly all cells
            wait for such a stage, so a core would idle otherwise.
    """

    name: str
    artifact: str
    axes: tuple[str, ...]
    asked_by: Literal["estimated", "diagnosed"] | None = None
    anchors: Literal["study", "rounds", "both"] = "both"
    reported: bool = False
    timed: bool = False
    wide: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """Families whose code a cell runs; a cell that makes the anchor of a round also runs the policy it distils."""
        return FAMILIES if self.anchors == "rounds" else tuple(axis for axis in self.axes if axis in FAMILIES)

    def serves(self, policy: Policy, study: Lists) -> bool:
        """Whether a policy of the study needs a cell of this stage, on the stage's axes."""
        if self.asked_by and policy.dataset not in getattr(study, self.asked_by):
            return False
        of_round = policy.anchor in [made.anchor for made in study.rounds]
        return self.anchors == "both" or of_round == (self.anchors == "rounds")


_ANCHOR = ("dataset", "anchor", "seeds")

STAGES = {
    stage.name: stage
    for stage in (
        Stage("download", "data", ("dataset",), wide=True),
        Stage("fit_bc", "anchor", _ANCHOR, anchors="study", timed=True, wide=True),
        Stage("reanchor", "anchor", _ANCHOR, anchors="rounds", timed=True, wide=True),
        Stage("fit_residual", "residual", _ANCHOR, timed=True, wide=True),
        Stage("fit_critic", "critic", ("dataset", "critic", "seeds"), timed=True, wide=True),
        Stage("self_imitation", "policy", AXES, timed=True),
        Stage("evaluate", "evaluation", AXES, reported=True, timed=True),
        Stage("estimate", "estimate", AXES, asked_by="estimated", reported=True, timed=True),
        Stage("geometry", "geometry", _ANCHOR, asked_by="diagnosed", anchors="study", reported=True),
        Stage("diagnose", "diagnosis", AXES, asked_by="diagnosed", anchors="study", reported=True),
    )
}
_AXES_OF = {stage.artifact: stage.axes for stage in STAGES.values()}


def place(artifact: str, cell: object) -> Path:
    """Path of an artifact below the folder of all artifacts, by the axes of a cell (any object that has them)."""
    return Path(artifact, *(getattr(cell, axis) for axis in _AXES_OF[artifact]))
