"""The committees of a study: one policy a seed group, which acts by the mean of the actions of the group's seeds.

The independent unit is a committee. With one group there is one committee, whose intervals are over its episodes: they
say how sure the return of this policy is, and nothing about another committee. Members are compared with members, and
committees with committees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from spar_core.evaluation.statistics import Estimate, mean_interval, normalised_score, paired_difference, seed_means
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import KEYS, Rule, Setting
from spar_core.reporting.numbers.harm import is_lost

# Return by environment seed of the policy of each seed group.
Policies = Mapping[str, Mapping[int, float]]
COLUMNS = [*KEYS, "seeds", "members", "episodes", "return_mean", "normalised_score", "gain", "lowest_member"]


@dataclass(frozen=True)
class Committee:
    """One committee of one rule.

    Attributes:
        members: number of seeds.
        returns: return of each episode by its environment seed.
        value: mean return.
        score: normalised score of the mean return; None without reference returns.
        gain: over the committee of the baseline; None without one, or for the baseline itself.
        lowest_member: lowest mean return of a seed that acts alone.
    """

    members: int
    returns: dict[int, float]
    value: float
    score: float | None
    gain: float | None
    lowest_member: float

    @property
    def lost(self) -> bool:
        """Whether it ends more than a tenth of the return of the anchor's committee below that return."""
        return self.gain is not None and is_lost(self.value, self.value - self.gain)


@dataclass(frozen=True)
class CommitteeSummary:
    """The committees of one rule, by seed group.

    Attributes:
        returns, gain: mean over the committees, or of the one committee, with the interval over ``unit``.
        improvement_part: gain over the committees of the repair rule; None without them, or for the repair rule itself.
        unit: what intervals are over: the committees, or the episodes of the only one.
    """

    dataset: str
    anchor: str
    critic: str
    improvement: str
    of_group: dict[str, Committee]
    returns: Estimate
    gain: Estimate | None
    improvement_part: Estimate | None
    unit: Literal["committees", "episodes"]

    @property
    def setting(self) -> Setting:
        """Dataset, anchor and critic."""
        return self.dataset, self.anchor, self.critic

    @property
    def score(self) -> float | None:
        """Mean normalised score."""
        scores = [one.score for one in self.of_group.values() if one.score is not None]
        return sum(scores) / len(scores) if scores else None

    @property
    def lowest(self) -> float:
        """Lowest return of a committee."""
        return min(one.value for one in self.of_group.values())

    @property
    def lowest_member(self) -> float:
        """Lowest mean return of a member that acts alone."""
        return min(one.lowest_member for one in self.of_group.values())

    @property
    def lost(self) -> int:
        """Number of committees that are lost (see :attr:`Committee.lost`)."""
        return sum(one.lost for one in self.of_group.values())

    def metrics(self) -> dict[str, float]:
        """The entries of ``metrics.json``."""
        gain = {} if self.gain is None else {"": self.gain.value, "_low": self.gain.low, "_high": self.gain.high}
        known = {"return_mean": self.returns.value, "lowest_member": self.lowest_member}
        known |= {f"gain{end}": value for end, value in gain.items() if value is not None}
        key = "/".join([*self.setting, self.improvement])
        return {f"{key}/committee/{name}": value for name, value in known.items()}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``committees.csv``, one a committee."""
        axes = (*self.setting, self.improvement)
        found = []
        for group, one in self.of_group.items():
            known = (group, one.members, len(one.returns), one.value, one.score, one.gain, one.lowest_member)
            found.append(dict(zip(COLUMNS, (*axes, *known), strict=True)))
        return found


def committees_of(rules: Sequence[Rule], settings: ReportSettings) -> list[CommitteeSummary]:
    """One entry per rule that has committees, in the study's order. A group of one seed has none."""
    returns = {(*rule.setting, rule.improvement): returns_of(rule) for rule in rules}
    found = []
    for rule in rules:
        ours = returns[(*rule.setting, rule.improvement)]
        if ours:
            baseline, repair = (returns.get((*rule.setting, name), {}) for name in (settings.baseline, settings.repair))
            compared = baseline if rule.improvement != settings.baseline else {}
            split = repair if rule.improvement not in (settings.baseline, settings.repair) else {}
            found.append(_summary(rule, ours, compared, split, settings.confidence))
    return found


def difference(ours: Policies, other: Policies, confidence: float) -> Estimate | None:
    """Mean difference over the groups that both have, with its interval; None without a common group.

    With one common group the interval is over the episodes that both have, paired by environment seed.
    """
    common = [group for group in ours if group in other]
    if len(common) == 1:
        first, second = ours[common[0]], other[common[0]]
        shared = set(first) & set(second)
        return paired_difference({e: first[e] for e in shared}, {e: second[e] for e in shared}, confidence)
    gains = [mean_return(ours[group]) - mean_return(other[group]) for group in common]
    return mean_interval(gains, confidence) if gains else None


def returns_of(rule: Rule) -> dict[str, dict[int, float]]:
    """Return of each episode of the rule's committees, by seed group and environment seed."""
    frame = rule.committees
    return {
        str(group): dict(zip(map(int, rows["env_seed"]), map(float, rows["return"]), strict=True))
        for group, rows in frame.groupby("seeds", sort=False)
    }


def _summary(rule: Rule, ours: Policies, baseline: Policies, repair: Policies, confidence: float) -> CommitteeSummary:
    reference = rule.context.get("reference")
    alone = seed_means(rule.episodes["seed"], rule.episodes["return"])
    of_group = {}
    for group, returns in ours.items():
        value, members = mean_return(returns), [alone[seed] for seed in rule.groups[group]]
        over = value - mean_return(baseline[group]) if group in baseline else None
        score = normalised_score(value, reference["min"], reference["max"]) if reference else None
        of_group[group] = Committee(len(members), dict(returns), value, score, over, min(members))
    several = len(of_group) > 1
    values = [one.value for one in of_group.values()] if several else list(next(iter(ours.values())).values())
    return CommitteeSummary(
        *rule.setting,
        rule.improvement,
        of_group,
        mean_interval(values, confidence),
        difference(ours, baseline, confidence),
        difference(ours, repair, confidence),
        "committees" if several else "episodes",
    )


def mean_return(returns: Mapping[int, float]) -> float:
    """Mean return of a policy over its episodes."""
    return sum(returns.values()) / len(returns)


def committees_frame(entries: Sequence[CommitteeSummary]) -> pd.DataFrame:
    """``committees.csv``: one row per rule and committee."""
    return pd.DataFrame([row for entry in entries for row in entry.rows()], columns=COLUMNS)
