"""Every rule of a setting against every other, paired by seed, and whether one rule is shown to be best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.aggregates import probability_of_improvement
from spar_core.evaluation.statistics import Estimate, paired_difference
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Setting
from spar_core.reporting.numbers.tables import Summary, over_common_seeds

COLUMNS = ["dataset", "anchor", "critic", "rule", "other", "seeds"]


@dataclass(frozen=True)
class Pair:
    """``rule`` minus ``other`` on one dataset, anchor and critic.

    Attributes:
        difference: mean difference of returns, paired by seed.
        chance: probability that a random seed of ``rule`` has a higher return than a random seed of ``other``. It has
            no interval, since no interval on a single dataset is shown to have the right coverage.
        wins: number of seeds at which ``rule`` has the higher return.
    """

    setting: Setting
    rule: str
    other: str
    difference: Estimate
    chance: float
    wins: int

    def row(self) -> dict[str, Any]:
        """The row of ``pairs.csv``."""
        return {
            **dict(zip(COLUMNS, (*self.setting, self.rule, self.other, self.difference.n), strict=True)),
            "difference": self.difference.value,
            "difference_low": self.difference.low,
            "difference_high": self.difference.high,
            "probability_of_improvement": self.chance,
            "seeds_above": self.wins,
        }


def pairs_of(summaries: Sequence[Summary], settings: ReportSettings, *, partial: bool = False) -> list[Pair]:
    """All ordered pairs of rules within each setting, in the study's order.

    Args:
        summaries: the summaries of rules that were rolled out.
        settings: the width of intervals.
        partial: whether seed groups may be missing; rules are then compared over the seeds that both have, and two
            rules without a common seed have no pair.

    Raises:
        SparError: two rules of a setting do not have the same seeds, and this is no partial report.
    """
    found = []
    for ours, other in itertools.permutations(summaries, 2):
        if ours.setting != other.setting:
            continue
        mine, theirs = ours.per_seed, other.per_seed
        if partial:
            mine, theirs = over_common_seeds(mine, theirs, mine)
            if not mine:
                continue
        scores = [{ours.dataset: list(values.values())} for values in (mine, theirs)]
        found.append(
            Pair(
                ours.setting,
                ours.improvement,
                other.improvement,
                paired_difference(mine, theirs, settings.confidence),
                float(probability_of_improvement(*scores)),
                sum(mine[seed] > theirs[seed] for seed in mine),
            )
        )
    return found


def pairs_frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """``pairs.csv``: one row per ordered pair."""
    names = list(pairs[0].row()) if pairs else COLUMNS
    return pd.DataFrame([pair.row() for pair in pairs], columns=names)


@dataclass(frozen=True)
class Best:
    """The rule of a setting with the highest mean return.

    Attributes:
        rivals: the rules that it is not shown to exceed: the paired interval against them does not exclude zero.
    """

    rule: str
    rivals: tuple[str, ...]

    @property
    def shown(self) -> bool:
        """Whether the rule is shown to exceed every other rule."""
        return not self.rivals


def best_of(rows: Sequence[Summary], pairs: Sequence[Pair]) -> Best | None:
    """The rule of one setting with the highest mean return; None with a single rule."""
    if len(rows) < 2:
        return None
    first = max(rows, key=lambda row: row.returns.value)
    against = {pair.other: pair for pair in pairs if pair.setting == first.setting and pair.rule == first.improvement}
    others = [row.improvement for row in rows if row is not first]
    rivals = tuple(name for name in others if name not in against or against[name].difference.direction < 1)
    return Best(first.improvement, rivals)
