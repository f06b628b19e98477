"""The answer for one dataset, anchor and critic: does a rule beat the anchor beyond noise, and which policy to deploy?

The policies that are compared are those that ``load_policy(path)`` loads: the committee of each seed group, or the
seed of a group of one. With two or more groups, intervals are over groups. With one group, they are over the episodes
of its policy, paired by start state. The rule with the highest lower end of its gain is picked. Since one of m rules is
picked, every interval has the confidence ``1 - (1 - confidence) / m`` (Bonferroni), so that all hold together at
``confidence``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from spar_core.evaluation.statistics import Estimate, seed_means
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule, Setting, by_setting
from spar_core.reporting.numbers.committees import Policies, difference, mean_return, returns_of
from spar_core.reporting.numbers.harm import is_lost

Unit = Literal["committees", "seeds", "episodes", "estimates"]


# A gain of more than this share of the anchor's return is worth a new policy.
WORTH = 0.05


class Decision(StrEnum):
    """What to do with the policies of a setting."""

    DEPLOY = "deploy"  # a rule is shown to beat the anchor
    REPAIR = "deploy the repair"  # the gain is shown, but nothing beyond repair
    KEEP = "keep your policy"  # no gain is shown, and none that is worth a new policy is possible
    TRY = "try beside your policy"  # a gain of estimates is shown, and there is no simulator
    OPEN = "not decided"  # no gain is shown, but one that is worth a new policy is possible


@dataclass(frozen=True)
class Verdict:
    """The answer for one dataset, anchor and critic.

    Attributes:
        rule: the rule to deploy or to try; else the rule with the highest mean. None where the setting has no rule
            besides the baseline.
        group: seed group of the policy to deploy.
        members: number of seeds that act together in this policy.
        value, anchor: mean return (or estimate) of the rule's policies, and of the anchor's.
        gain: of the rule over the anchor.
        repair, improvement: the two parts of the gain; None without the repair rule, or for the repair rule itself.
        tied: rules with a shown gain, whose difference from ``rule`` includes zero.
        worse: rules that are shown to end below the anchor.
        rules: number of rules that were compared with the anchor.
        unit, units: what intervals are over, and the number of these.
        lost: return of each single seed of the rule that ends more than a tenth below the anchor, by seed.
        label: a warning about the environment that returns come from; None without one.
    """

    setting: Setting
    decision: Decision
    rule: str | None
    group: str
    members: int
    value: float
    anchor: float
    gain: Estimate | None
    repair: Estimate | None
    improvement: Estimate | None
    tied: tuple[str, ...]
    worse: tuple[str, ...]
    rules: int
    unit: Unit
    units: int
    lost: Mapping[int, float]
    label: str | None

    @property
    def deploys(self) -> bool:
        """Whether there is a policy to deploy or to try."""
        return self.decision in (Decision.DEPLOY, Decision.REPAIR, Decision.TRY)

    @property
    def policy(self) -> str:
        """Folder of the policy to deploy, as the pipeline lays it down."""
        return "/".join(["artifacts/policy", *self.setting, self.rule or "", self.group])


def verdicts(rules: Sequence[Rule], settings: ReportSettings) -> list[Verdict]:
    """One verdict for every setting that has the baseline, in the study's order."""
    found = []
    for setting, members in by_setting(rules).items():
        named = {rule.improvement: rule for rule in members}
        if settings.baseline in named:
            found.append(_verdict(setting, named, settings))
    return found


def _verdict(setting: Setting, named: Mapping[str, Rule], settings: ReportSettings) -> Verdict:
    policies = {name: _policies(rule) for name, rule in named.items()}
    base = policies[settings.baseline]
    others = {name: ours for name, ours in policies.items() if name != settings.baseline}
    confidence = 1 - (1 - settings.confidence) / max(len(others), 1)
    compared = {name: difference(ours, base, confidence) for name, ours in others.items()}
    gains = {name: gain for name, gain in compared.items() if gain is not None}
    shown = [name for name, gain in gains.items() if gain.direction > 0]
    picked = _pick(gains, shown)
    repair = others.get(settings.repair, {})
    if settings.repair in shown and picked != settings.repair:
        # A gain that cloning again has too needs no critic.
        part = difference(others[picked], repair, confidence)
        picked = picked if part is not None and part.direction > 0 else settings.repair
    rule = named[picked or settings.baseline]
    ours = policies[rule.improvement]
    split = repair if picked not in ("", settings.repair) else {}
    common = {group: values for group, values in base.items() if group in ours}
    anchor = _mean_of(common)
    estimated = rule.not_evaluated is not None
    group = _group_of(rule, max(ours, key=lambda name: mean_return(ours[name])))
    return Verdict(
        setting,
        _decision(picked, shown, gains, settings.repair, estimated, WORTH * abs(anchor)),
        picked or None,
        group,
        members=len(rule.groups[group]),
        value=_mean_of({group: values for group, values in ours.items() if group in common}),
        anchor=anchor,
        gain=gains.get(picked),
        repair=difference(split, base, confidence),
        improvement=difference(ours, split, confidence),
        tied=tuple(name for name in shown if name != picked and _tied(ours, others[name], settings.confidence)),
        worse=tuple(name for name, gain in gains.items() if gain.direction < 0),
        rules=len(gains),
        unit="estimates" if estimated else _unit(rule, common),
        units=len(next(iter(common.values()))) if len(common) == 1 else len(common),
        lost={} if estimated or not picked else _lost(rule, anchor),
        label=rule.context.get("mismatch"),
    )


def _pick(gains: Mapping[str, Estimate], shown: Sequence[str]) -> str:
    """The rule with the highest lower end among those whose gain is shown, else with the highest mean; "" for none."""
    if shown:
        return max(shown, key=lambda name: gains[name].low or 0.0)
    return max(gains, key=lambda name: gains[name].value, default="")


def _decision(
    picked: str, shown: Sequence[str], gains: Mapping[str, Estimate], repair: str, estimated: bool, worth: float
) -> Decision:
    if shown:
        return Decision.TRY if estimated else Decision.REPAIR if picked == repair else Decision.DEPLOY
    highs = [gain.high for gain in gains.values()]
    possible = not highs or any(high is None or high > worth for high in highs)
    return Decision.OPEN if possible else Decision.KEEP


def _tied(ours: Policies, other: Policies, confidence: float) -> bool:
    found = difference(ours, other, confidence)
    return found is None or found.direction == 0


def _policies(rule: Rule) -> dict[str, dict[int, float]]:
    """The policies that can be loaded; of a seed group without a committee, each seed."""
    if rule.not_evaluated is not None:
        return {str(seed): {seed: value} for seed, value in rule.offline["fqe"].items()}
    together = returns_of(rule)
    held = {seed for group in together for seed in rule.groups[group]}
    alone = rule.episodes[~rule.episodes["seed"].isin(held)]
    return together | {
        str(seed): dict(zip(map(int, rows["env_seed"]), map(float, rows["return"]), strict=True))
        for seed, rows in alone.groupby("seed")
    }


def _group_of(rule: Rule, policy: str) -> str:
    """The seed group of a policy, which is named by its group or by its seed."""
    return next(group for group, seeds in rule.groups.items() if policy in (group, *map(str, seeds)))


def _unit(rule: Rule, base: Policies) -> Unit:
    if len(base) == 1:
        return "episodes"
    return "committees" if len(rule.committees) else "seeds"


def _lost(rule: Rule, anchor: float) -> dict[int, float]:
    alone = seed_means(rule.episodes["seed"], rule.episodes["return"])
    return {seed: value for seed, value in alone.items() if is_lost(value, anchor)}


def _mean_of(policies: Policies) -> float:
    """Mean over policies of their mean values."""
    return sum(map(mean_return, policies.values())) / len(policies)
