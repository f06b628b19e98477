"""The numbers of rules that were rolled out: one summary per rule, with its gains over the anchor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spar_core.evaluation.statistics import (
    Estimate,
    gain_in_pooled_stds,
    mean_interval,
    normalised_score,
    normalised_spread,
    paired_difference,
    sample_std,
    seed_means,
)
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule, Setting

# The columns of table.csv that also go into metrics.json: few enough to read in `dvc metrics diff`.
# Repair is left out, since it is the gain of the repair rule.
METRICS = [
    "return_mean",
    "normalised_score",
    "gain_over_{baseline}",
    "gain_low",
    "gain_high",
    "gain_pooled_stds",
    "improvement_part",
    "length_mean",
    "success_rate",
    "fqe_mean",
    "critic_estimate",
]


# One value per seed, by dataset, anchor, critic and rule.
SeedMeans = Mapping[tuple[str, str, str, str], dict[int, float]]


@dataclass(frozen=True)
class RuleSummary:
    """The common part of all summaries: the rule, the rule that gains are measured against, and one value per seed."""

    dataset: str
    anchor: str
    critic: str
    improvement: str
    baseline: str
    per_seed: dict[int, float]

    @property
    def setting(self) -> Setting:
        """Dataset, anchor and critic."""
        return self.dataset, self.anchor, self.critic

    @property
    def key(self) -> str:
        """The rule's name in ``metrics.json``, which does not depend on the other rules."""
        return "/".join([*self.setting, self.improvement])


@dataclass(frozen=True)
class Summary(RuleSummary):
    """One rule on one dataset with one anchor and one critic; spreads and intervals are over seeds.

    A value that does not exist is None: an interval of one seed, a score without reference returns, a gain in a study
    without the baseline, the baseline's gain over itself.

    Attributes:
        episodes: number of episodes, all seeds together.
        episodes_a_seed: smallest and largest number of episodes of a seed.
        returns: mean return.
        return_std: standard deviation of the seeds' mean returns.
        score, score_std: normalised score of the mean return, and the spread in the same units.
        gain: over the baseline, paired by seed.
        gain_pooled_stds: the gain in pooled standard deviations of the seeds.
        repair: gain of the repair rule over the baseline.
        improvement_part: gain of the rule over the repair rule; repair and this part add up to the gain.
        length: mean number of steps of an episode.
        success: share of successful episodes; None where the environment does not report success.
        parameters_rule, parameters_policy: parameters that the rule trains, and that the whole policy needs to act;
            None without the diagnostic.
        gains, repairs, improvements: differences by seed behind gain, repair and improvement part.
        label: a warning that every table shows, such as that the environment is not the one of the data.
        score_label: which published scores the normalised score is comparable with.
        protocol: the checkpoint rule of the evaluation.
        fqe, critic_estimate: estimates from logged data, means over seeds; None where the study asks for none.
    """

    episodes: int
    episodes_a_seed: tuple[int, int]
    returns: Estimate
    return_std: float | None
    score: float | None
    score_std: float | None
    gain: Estimate | None
    gain_pooled_stds: float | None
    repair: Estimate | None
    improvement_part: Estimate | None
    length: float
    success: float | None
    parameters_rule: int | None = None
    parameters_policy: int | None = None
    gains: dict[int, float] = field(default_factory=dict)
    repairs: dict[int, float] = field(default_factory=dict)
    improvements: dict[int, float] = field(default_factory=dict)
    label: str | None = None
    score_label: str | None = None
    protocol: str = "not stated"
    fqe: float | None = None
    critic_estimate: float | None = None

    def metrics(self) -> dict[str, float | None]:
        """The rule's entries of ``metrics.json``."""
        row = self.flat()
        return {name: row.get(name) for name in (template.format(baseline=self.baseline) for template in METRICS)}

    def flat(self) -> dict[str, Any]:
        """One row of ``table.csv``."""
        row: dict[str, Any] = {
            "dataset": self.dataset,
            "anchor": self.anchor,
            "critic": self.critic,
            "improvement": self.improvement,
            "protocol": self.protocol,
            "seeds": len(self.per_seed),
            "episodes": self.episodes,
            "return_mean": self.returns.value,
            "return_low": self.returns.low,
            "return_high": self.returns.high,
            "return_std": self.return_std,
            "normalised_score": self.score,
            "normalised_std": self.score_std,
            "score_label": self.score_label,
        }
        names = [
            (self.gain, f"gain_over_{self.baseline}", "gain"),
            (self.repair, "repair", "repair"),
            (self.improvement_part, "improvement_part", "improvement_part"),
        ]
        for estimate, name, prefix in names:
            row[name] = estimate.value if estimate else None
            row[f"{prefix}_low"] = estimate.low if estimate else None
            row[f"{prefix}_high"] = estimate.high if estimate else None
        row["gain_pooled_stds"] = self.gain_pooled_stds
        row["length_mean"] = self.length
        row["success_rate"] = self.success
        row["parameters_rule"] = self.parameters_rule
        row["parameters_policy"] = self.parameters_policy
        row["fqe_mean"], row["critic_estimate"] = self.fqe, self.critic_estimate
        row["label"] = self.label
        return row


def summarise(rules: list[Rule], settings: ReportSettings, *, partial: bool = False) -> list[Summary]:
    """Summaries in the study's order.

    Gains compare a rule with the baseline of its own dataset, anchor and critic, seed by seed.

    Args:
        rules: the rules of one study.
        settings: names of the baseline and the repair rule, and the width of intervals.
        partial: whether seed groups may be missing; rules are then compared over the seeds that both have.

    Raises:
        SparError: a rule and its baseline do not have the same seeds, and this is no partial report.
    """
    means: SeedMeans = {
        (*rule.setting, rule.improvement): seed_means(rule.episodes["seed"], rule.episodes["return"]) for rule in rules
    }
    return [_summary(rule, means, settings, partial) for rule in rules]


def _summary(rule: Rule, means: SeedMeans, settings: ReportSettings, partial: bool) -> Summary:
    """Summary of one rule; ``means`` holds the seed means of every rule of the study."""
    ours = means[(*rule.setting, rule.improvement)]
    baseline = means.get((*rule.setting, settings.baseline))
    repair = means.get((*rule.setting, settings.repair))
    compared = baseline is not None and rule.improvement != settings.baseline
    split = repair is not None and rule.improvement not in (settings.baseline, settings.repair)

    def difference(of: dict[int, float], to: dict[int, float]) -> tuple[Estimate | None, dict[int, float]]:
        if partial:
            of, to = over_common_seeds(of, to, ours)
        return difference_by_seed(of, to, settings)

    nothing: tuple[None, dict[int, float]] = (None, {})
    gain, gains = difference(ours, baseline) if compared and baseline else nothing
    repaired, repairs = difference(repair, baseline) if compared and baseline and repair else nothing
    part, improvements = difference(ours, repair) if split and repair else nothing
    values = list(ours.values())
    spread = sample_std(values)
    returns = mean_interval(values, settings.confidence)
    reference = rule.context.get("reference")
    bounds = (reference["min"], reference["max"]) if reference else None
    counts = rule.episodes.groupby("seed").size()
    success = rule.episodes["success"].dropna()
    return Summary(
        *rule.setting,
        rule.improvement,
        baseline=settings.baseline,
        per_seed=ours,
        episodes=len(rule.episodes),
        episodes_a_seed=(int(counts.min()), int(counts.max())),
        returns=returns,
        return_std=spread,
        score=normalised_score(returns.value, *bounds) if bounds else None,
        score_std=normalised_spread(spread, *bounds) if bounds and spread is not None else None,
        gain=gain,
        gain_pooled_stds=gain_in_pooled_stds(values, list(baseline.values())) if gain and baseline else None,
        repair=repaired,
        improvement_part=part,
        length=float(rule.episodes["length"].mean()),
        success=float(success.mean()) if len(success) else None,
        parameters_rule=count_of(rule, "improvement/parameters"),
        parameters_policy=count_of(rule, "policy/parameters"),
        gains=gains,
        repairs=repairs,
        improvements=improvements,
        label=rule.context.get("mismatch"),
        score_label=rule.context.get("label") if bounds else None,
        protocol=str(rule.context.get("protocol", "not stated")),
        fqe=mean_of(rule, "fqe"),
        critic_estimate=mean_of(rule, "critic_estimate"),
    )


def over_common_seeds(
    of: dict[int, float], to: dict[int, float], ours: dict[int, float]
) -> tuple[dict[int, float], dict[int, float]]:
    """The values ``of`` and ``to``, restricted to the seeds that both of them and ``ours`` have."""
    common = sorted(set(of) & set(to) & set(ours))
    return {seed: of[seed] for seed in common}, {seed: to[seed] for seed in common}


def difference_by_seed(
    of: dict[int, float], to: dict[int, float], settings: ReportSettings
) -> tuple[Estimate | None, dict[int, float]]:
    """Paired difference ``of`` minus ``to`` with its interval, and the differences by seed; (None, {}) without seeds.

    Raises:
        SparError: ``of`` and ``to`` do not have the same seeds.
    """
    if not of and not to:
        return None, {}
    return paired_difference(of, to, settings.confidence), {seed: of[seed] - to[seed] for seed in sorted(of)}


def mean_of(rule: Rule, estimate: str) -> float | None:
    """Mean over seeds of an estimate from logged data; None where the study asks for none."""
    values = rule.offline.get(estimate)
    return math.fsum(values.values()) / len(values) if values else None


def count_of(rule: Rule, key: str) -> int | None:
    """A number of parameters: the largest over seeds, which are equal for most members; None without the diagnostic."""
    values = rule.diagnostics.get(key)
    return round(max(values)) if values else None
