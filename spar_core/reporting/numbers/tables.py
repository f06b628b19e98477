"""The numbers of a report: one summary a rule whose episodes were rolled out, and what its diagnostics say."""

from __future__ import annotations

import math
import statistics as stdlib_statistics
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
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.page.config import ReportSettings

# The part of a summary that goes into metrics.json: few enough to read in `dvc metrics diff`
# (repair is the repair rule's own gain); table.csv has everything.
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


@dataclass(frozen=True)
class RuleSummary:
    """What every summary says of whom it speaks: the cell, what gains are measured against, and a value a seed."""

    dataset: str
    anchor: str
    critic: str
    improvement: str
    baseline: str
    per_seed: dict[int, float]

    @property
    def setting(self) -> tuple[str, str, str]:
        return self.dataset, self.anchor, self.critic

    @property
    def key(self) -> str:
        """Stable name in ``metrics.json``."""
        return "/".join([*self.setting, self.improvement])


@dataclass(frozen=True)
class Summary(RuleSummary):
    """One rule on one dataset with one anchor and one critic; spreads and intervals are over seeds.

    ``None`` stands for what cannot be had: an interval of one seed, a score without reference returns,
    a gain in a study without the baseline, the baseline's gain over itself.
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
    # Numbers that the rule trained, and that the whole policy holds to act; None where no diagnostic says.
    parameters_rule: int | None = None
    parameters_policy: int | None = None
    # The differences behind gain, repair and improvement part, by seed; empty where those are None.
    gains: dict[int, float] = field(default_factory=dict)
    repairs: dict[int, float] = field(default_factory=dict)
    improvements: dict[int, float] = field(default_factory=dict)
    # What every table must say beside these numbers, such as that the environment is not the data's own.
    label: str | None = None
    # What its normalised score may be compared with; None without one.
    score_label: str | None = None
    # Which of its checkpoints a policy is judged by, as every table says.
    protocol: str = "not stated"
    # Estimates from logged data beside the return, means over seeds; None where the study asks for none.
    fqe: float | None = None
    critic_estimate: float | None = None

    def metrics(self) -> dict[str, float | None]:
        """Its part of ``metrics.json``."""
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


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic of the rules of a setting that share its values."""

    key: str
    rules: tuple[str, ...]
    median: float
    low: float
    high: float
    n: int


def summarise(rules: list[Rule], settings: ReportSettings, *, partial: bool = False) -> list[Summary]:
    """Summaries in the study's order.

    Gains compare a rule with the baseline of its own dataset, anchor and critic, seed by seed. The gain is
    split in two: **repair**, the repair rule minus the baseline, and **improvement part**, the rule minus
    the repair rule; the two add up to the gain.

    Args:
        rules: of one study.
        settings: which rules gains are measured against.
        partial: compare over the seeds that both sides have, where seed groups are missing.

    Raises:
        SparError: a rule and its baseline do not have the same seeds, and this is no partial report.
    """
    means = {
        (*rule.setting, rule.improvement): seed_means(rule.episodes["seed"], rule.episodes["return"]) for rule in rules
    }
    return [_summary(rule, means, settings, partial) for rule in rules]


def _summary(
    rule: Rule, means: dict[tuple[str, ...], dict[int, float]], settings: ReportSettings, partial: bool
) -> Summary:
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
    """Two sides of a comparison, at the seeds that both and the rule itself have."""
    common = sorted(set(of) & set(to) & set(ours))
    return {seed: of[seed] for seed in common}, {seed: to[seed] for seed in common}


def difference_by_seed(
    of: dict[int, float], to: dict[int, float], settings: ReportSettings
) -> tuple[Estimate | None, dict[int, float]]:
    """The paired difference of two sides with its interval, and seed by seed; nothing where there is no seed.

    Raises:
        SparError: the sides do not have the same seeds.
    """
    if not of and not to:
        return None, {}
    return paired_difference(of, to, settings.confidence), {seed: of[seed] - to[seed] for seed in sorted(of)}


def mean_of(rule: Rule, estimate: str) -> float | None:
    """Mean over seeds of an estimate from logged data; None where there is none."""
    values = rule.offline.get(estimate)
    return math.fsum(values.values()) / len(values) if values else None


def count_of(rule: Rule, key: str) -> int | None:
    """A number of parameters, the same for every seed (the largest where it is not); None without the diagnostic."""
    values = rule.diagnostics.get(key)
    return round(max(values)) if values else None


def diagnostics(rules: list[Rule]) -> list[Diagnostic]:
    """Diagnostics of the rules of one setting, by key; rules with the same values share an entry.

    What belongs to the anchor or the critic is the same for every rule, and is then told once.
    """
    groups: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for rule in rules:
        for key, values in rule.diagnostics.items():
            if values:
                groups.setdefault((key, tuple(map(float, values))), []).append(rule.improvement)
    order = sorted(groups, key=lambda group: group[0])  # stable: the study's order within a key
    return [
        Diagnostic(
            key=key,
            rules=tuple(groups[key, values]),
            median=stdlib_statistics.median(values),
            low=min(values),
            high=max(values),
            n=len(values),
        )
        for key, values in order
    ]
