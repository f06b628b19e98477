"""Every rule of a setting against every other, seed by seed, and what may be said of a best one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.aggregates import probability_of_improvement
from spar_core.evaluation.statistics import Estimate, paired_difference
from spar_core.reporting.numbers.tables import Summary, over_common_seeds
from spar_core.reporting.page.config import ReportSettings

COLUMNS = ["dataset", "anchor", "critic", "rule", "other", "seeds"]


@dataclass(frozen=True)
class Pair:
    """``rule`` minus ``other`` on one dataset, anchor and critic.

    ``difference`` is paired by seed, in units of return. ``chance`` is the probability that a seed of the rule ends
    above one of the other (0.5: no better), without an interval: on one dataset, none is shown
    to cover. ``wins`` counts the seeds at which the rule is above its own pair.
    """

    setting: tuple[str, str, str]
    rule: str
    other: str
    difference: Estimate
    chance: float
    wins: int

    def row(self) -> dict[str, Any]:
        """Its row of ``pairs.csv``."""
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
        summaries: of rules that were rolled out.
        settings: how wide intervals are.
        partial: compare over the seeds that both have; two rules without a common seed have no pair.

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
    """``pairs.csv``: one row an ordered pair."""
    names = list(pairs[0].row()) if pairs else COLUMNS
    return pd.DataFrame([pair.row() for pair in pairs], columns=names)


@dataclass(frozen=True)
class Best:
    """The rule of a setting with the highest mean, and whether it is shown to be ahead.

    ``rivals`` are the rules whose paired interval against it does not exclude zero: with any, there is no best rule.
    """

    rule: str
    rivals: tuple[str, ...]

    @property
    def shown(self) -> bool:
        """Whether it is shown to be above every other rule."""
        return not self.rivals


def best_of(rows: Sequence[Summary], pairs: Sequence[Pair]) -> Best | None:
    """The best rule of one setting; None with a single rule."""
    if len(rows) < 2:
        return None
    first = max(rows, key=lambda row: row.returns.value)
    against = {pair.other: pair for pair in pairs if pair.setting == first.setting and pair.rule == first.improvement}
    others = [row.improvement for row in rows if row is not first]
    rivals = tuple(name for name in others if name not in against or against[name].difference.direction < 1)
    return Best(first.improvement, rivals)
