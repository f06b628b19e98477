"""The numbers of datasets on which no policy was rolled out: estimates from logged data instead of returns.

Values are discounted sums of rewards from the starts of the held-out episodes. As elsewhere, the seed is the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spar_core.evaluation.statistics import Estimate, mean_interval
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.tables import RuleSummary, SeedMeans, count_of, difference_by_seed, over_common_seeds

# The anchor's diagnostics on held-out episodes that the page shows.
HELDOUT = ("anchor/heldout_mse", "anchor/heldout_log_density", "anchor/coverage_distance")


@dataclass(frozen=True)
class OfflineSummary(RuleSummary):
    """One rule on one dataset without rollouts; a value that does not exist is None.

    Attributes:
        critic_per_seed: the critic's own estimate by seed.
        fqe: fitted-Q estimate, mean over seeds.
        gain: of the fitted-Q estimate over that of the baseline, paired by seed.
        critic_estimate: the critic's own estimate, mean over seeds.
        label: says that the values are estimates, and of which rewards.
        parameters_rule, parameters_policy: parameters that the rule trains, and that the whole policy needs to act.
    """

    critic_per_seed: dict[int, float]
    fqe: Estimate
    gain: Estimate | None
    critic_estimate: Estimate | None
    label: str
    parameters_rule: int | None = None
    parameters_policy: int | None = None

    def metrics(self) -> dict[str, float | None]:
        """The entries of ``metrics.json``; their names differ from those of returns."""
        return {
            "fqe_mean": self.fqe.value,
            f"fqe_gain_over_{self.baseline}": self.gain.value if self.gain else None,
            "fqe_gain_low": self.gain.low if self.gain else None,
            "fqe_gain_high": self.gain.high if self.gain else None,
            "critic_estimate": self.critic_estimate.value if self.critic_estimate else None,
        }

    def flat(self) -> dict[str, Any]:
        """The row of ``table.csv``."""
        axes = {"dataset": self.dataset, "anchor": self.anchor, "critic": self.critic, "improvement": self.improvement}
        numbers = self.metrics() | {"fqe_low": self.fqe.low, "fqe_high": self.fqe.high}
        counts = {"parameters_rule": self.parameters_rule, "parameters_policy": self.parameters_policy}
        return {**axes, "seeds": self.fqe.n, **numbers, **counts, "label": self.label}


def summarise_offline(
    rules: Sequence[Rule], settings: ReportSettings, *, partial: bool = False
) -> list[OfflineSummary]:
    """Summaries in the study's order; gains are paired by seed with the baseline of the same setting.

    Args:
        rules: the rules without rollouts.
        settings: the baseline, and the width of intervals.
        partial: whether seed groups may be missing; rules are then compared over the seeds that both have.

    Raises:
        SparError: a rule and its baseline do not have the same seeds, and this is no partial report.
    """
    values: SeedMeans = {(*rule.setting, rule.improvement): rule.offline["fqe"] for rule in rules}
    return [_summary(rule, values, settings, partial) for rule in rules]


def _summary(rule: Rule, values: SeedMeans, settings: ReportSettings, partial: bool) -> OfflineSummary:
    ours = rule.offline["fqe"]
    critic = rule.offline.get("critic_estimate", {})
    baseline = values.get((*rule.setting, settings.baseline))
    gain = None
    if baseline is not None and rule.improvement != settings.baseline:
        sides = over_common_seeds(ours, baseline, ours) if partial else (ours, baseline)
        gain, _ = difference_by_seed(*sides, settings)
    return OfflineSummary(
        *rule.setting,
        rule.improvement,
        baseline=settings.baseline,
        per_seed=ours,
        critic_per_seed=critic,
        fqe=mean_interval(list(ours.values()), settings.confidence),
        gain=gain,
        critic_estimate=mean_interval(list(critic.values()), settings.confidence) if critic else None,
        label=label_of(rule.context),
        parameters_rule=count_of(rule, "improvement/parameters"),
        parameters_policy=count_of(rule, "policy/parameters"),
    )


def label_of(context: Mapping[str, Any]) -> str:
    """The label of these values, which every table shows."""
    rewards = context["offline"]["rewards"]
    shifted = "" if rewards == "logged" else f", of rewards after the shift '{rewards}'"
    return f"{context['label']}{shifted}"
