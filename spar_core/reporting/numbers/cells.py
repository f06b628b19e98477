"""What a report is made of: the cells of a study, the folders of their artifacts, and the rules that they add up to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from spar_core.evolving.rounds import Round

KEYS = ["dataset", "anchor", "critic", "improvement"]
# Estimates from logged data. Every estimate artifact holds the first; the second needs a critic.
OFFLINE = ("fqe", "critic_estimate")

# Dataset, anchor and critic: rules that share all three are compared with one another.
Setting = tuple[str, str, str]


class InSetting(Protocol):
    """Anything that belongs to one setting: a rule, a summary, a regret."""

    @property
    def setting(self) -> Setting: ...


Member = TypeVar("Member", bound=InSetting)


class Cell(Protocol):
    """One evaluation of the study: a rule on a dataset, for one group of seeds such as ``"0-3"``."""

    @property
    def dataset(self) -> str: ...
    @property
    def anchor(self) -> str: ...
    @property
    def critic(self) -> str: ...
    @property
    def improvement(self) -> str: ...
    @property
    def seeds(self) -> str: ...


class StudyLists(Protocol):
    """The part of a study that the report needs; :class:`spar_core.study.Study` has it.

    Attributes:
        name, question: as the page shows them.
        estimated: datasets whose policies are also valued from logged data.
        rounds: anchors that evolve, each made from an earlier one.
        diagnosed: datasets whose cells were diagnosed.
    """

    @property
    def name(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def estimated(self) -> tuple[str, ...]: ...
    @property
    def rounds(self) -> tuple[Round, ...]: ...
    @property
    def diagnosed(self) -> tuple[str, ...]: ...

    def cells(self) -> Iterable[Cell]:
        """Every cell, in the study's order."""


# Gives the folders of the artifacts that a study asks of one of its cells, by kind of artifact.
FoldersOf = Callable[[Cell, StudyLists], Mapping[str, Path]]


@dataclass
class Rule:
    """All seeds of one (dataset, anchor, critic, improvement), joined over seed groups.

    Attributes:
        episodes: one row per evaluated episode (columns: :data:`spar_core.reporting.numbers.reading.COLUMNS`).
        context: ``context.json`` of the first seed group.
        diagnostics: finite values by name, of all seeds.
        by_seed: diagnostics by name and seed; a seed without a finite value is left out.
        offline: estimates from logged data by name and seed; empty where the study asks for none.
        curves: learning curves of each seed group (:mod:`spar_core.curves`).
        corrections: quantiles of the corrections of each seed group (:mod:`spar_core.evaluation.estimation`).
        choices: by seed, what a rule that chooses among candidates chose, and why (:mod:`spar_core.choice`).
        sources: folders of the artifacts that were read, by seed group and kind.
        committees: one row per evaluated episode of the committee of each seed group; none of a group of one seed.
        groups: the seeds of each seed group.
    """

    dataset: str
    anchor: str
    critic: str
    improvement: str
    episodes: pd.DataFrame
    context: dict[str, Any]
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    by_seed: dict[str, dict[int, float]] = field(default_factory=dict)
    offline: dict[str, dict[int, float]] = field(default_factory=dict)
    curves: list[pd.DataFrame] = field(default_factory=list)
    corrections: list[pd.DataFrame] = field(default_factory=list)
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Path]] = field(default_factory=dict)
    committees: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["seeds", "env_seed", "return"]))
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def not_evaluated(self) -> str | None:
        """Why no policy was rolled out, as a clause; None where there are episodes."""
        return self.context.get("not_evaluated")

    @property
    def setting(self) -> Setting:
        """Dataset, anchor and critic."""
        return self.dataset, self.anchor, self.critic


def by_setting(members: Sequence[Member]) -> dict[Setting, list[Member]]:
    """Group rules, summaries or the like by setting, in their order."""
    groups: dict[Setting, list[Member]] = {}
    for member in members:
        groups.setdefault(member.setting, []).append(member)
    return groups
