"""Health of the parts behind a policy: data, anchor, residual model, critic, estimates. Each is green, amber or red.

Every check reads one number of the stages and compares it with two limits. The limits are this project's own: the
committed studies on built-in and replayed data lie on the green side of nearly all of them. Green parts are necessary
for a good policy, and not sufficient.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from spar_core.data.alignment import LEAD
from spar_core.improvement.self_imitation import SelfImitationSettings
from spar_core.reporting.numbers.agreement import Agreement
from spar_core.reporting.numbers.cells import Rule, Setting, by_setting

PARTS = ("data", "anchor", "residual model", "critic", "estimates")
# The spread of the critic's values among candidates is never reported below this floor.
FLOOR: float = SelfImitationSettings.model_fields["spread_floor"].default


class State(StrEnum):
    """From good to bad."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True)
class Check:
    """One number of a part with its limits.

    Attributes:
        part: one of :data:`PARTS`.
        name: what the number is, as the subject of a sentence.
        amber, red: limits; beyond them the part is amber or red. Where ``red < amber``, small values are bad.
        wrong: what is wrong beyond the limits, as a clause.
        advice: what to do.
        read: the number from the medians over seeds of a setting's diagnostics; None where they lack it.
    """

    part: str
    name: str
    amber: float
    red: float
    wrong: str
    advice: str
    read: Callable[[Mapping[str, float]], float | None]

    def state(self, value: float) -> State:
        """Where the value lies."""
        sign = 1.0 if self.red > self.amber else -1.0
        beyond = [sign * value >= sign * limit for limit in (self.red, self.amber)]
        return State.RED if beyond[0] else State.AMBER if beyond[1] else State.GREEN


@dataclass(frozen=True)
class Finding:
    """What a check found in one setting."""

    setting: Setting
    check: Check
    value: float

    @property
    def state(self) -> State:
        """Green, amber or red."""
        return self.check.state(self.value)


def _value(key: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda known: known.get(key)


def _ratio(above: str, below: str) -> Callable[[Mapping[str, float]], float | None]:
    def read(known: Mapping[str, float]) -> float | None:
        if above not in known or below not in known:
            return None
        return known[above] / known[below] if known[below] > 0 else float(known[above] > 0) * 1e9

    return read


CHECKS = (
    Check(
        "data",
        "number of episodes",
        20,
        5,
        "held-out measures rest on few episodes",
        "add episodes",
        _value("episodes"),
    ),
    Check(
        "data",
        "share of the changes of observations that actions of another row explain beyond those of their own",
        LEAD,
        0.1,
        "observations and actions look shifted against each other",
        "check that each row of the log holds the action that was taken at its observation",
        _value("misaligned"),
    ),
    Check(
        "data",
        "share of states in which the data act in two ways",
        0.2,
        1.1,
        "an anchor of one action averages two behaviours there",
        "try an anchor that keeps modes, such as `mixture` or `flow`",
        _value("anchor/bimodal_share"),
    ),
    Check(
        "anchor",
        "error on held-out episodes over error in training",
        1.5,
        3.0,
        "the anchor memorises its training episodes",
        "add data or weight decay, or train for fewer steps",
        _ratio("anchor/heldout_mse", "anchor/train_mse"),
    ),
    Check(
        "residual model",
        "length of held-out residuals over that of training residuals",
        1.2,
        2.0,
        "the radius is too small for new states, since the anchor memorises",
        "see the anchor",
        _ratio("residual/norm_heldout", "residual/norm_train"),
    ),
    Check(
        "residual model",
        "share of residuals beyond the radius",
        0.05,
        0.2,
        "the data's own actions are out of reach",
        "raise `residual.radius_quantile`",
        _value("residual/clipped_share"),
    ),
    Check(
        "residual model",
        "information of the latent in nats",
        0.1,
        0.01,
        "all candidates of a state are alike, so that there is nothing to choose from",
        "lower `residual.beta`, or train for more steps",
        _value("residual/kl"),
    ),
    Check(
        "critic",
        "spread of its values among candidates over the smallest spread that is told apart",
        2.0,
        1.01,
        "it values all actions of a state alike, so that no rule can improve",
        "train the critic for more steps, and check that rewards depend on actions",
        _value("spread"),
    ),
    Check(
        "critic",
        "mean weight of a logged action in advantage-weighted regression",
        0.1,
        0.01,
        "nearly no logged action counts",
        "raise the temperature of `awr`, or train the critic for more steps",
        _value("improvement/weight_mean"),
    ),
    Check(
        "critic",
        "rank correlation with observed returns",
        0.5,
        0.2,
        "it does not rank held-out states and actions as their returns do",
        "train it for more steps",
        _value("critic/rank_correlation"),
    ),
    Check(
        "critic",
        "its value of the best tenth of the episodes minus the observed return, in standard deviations",
        0.5,
        1.0,
        "it overrates what it has seen, so that it may have diverged",
        "lower its learning rate or its discount",
        _value("critic/gap_best_tenth"),
    ),
    Check(
        "critic",
        "its value of the best tenth of the episodes minus the observed return, in standard deviations",
        -0.5,
        -1.0,
        "it underrates good behaviour",
        "train it for more steps, or raise `expectile`",
        _value("critic/gap_best_tenth"),
    ),
    Check(
        "critic",
        "its value just before a termination minus the observed return, in standard deviations",
        0.5,
        1.0,
        "it does not foresee terminations",
        "train it for more steps, and check that the data mark terminations as such",
        _value("critic/gap_before_termination"),
    ),
    Check(
        "estimates",
        "share of states in which fitted-Q evaluation leaves what the rewards allow",
        0.1,
        0.5,
        "the estimate runs away where the policy leaves the data",
        "choose by returns, or by the critic's estimate",
        _value("fqe/clipped_share"),
    ),
    Check(
        "estimates",
        "rank correlation of fitted-Q evaluation with returns over policies",
        0.5,
        0.1,
        "the estimate does not rank these policies as their returns do",
        "choose by returns",
        _value("agreement"),
    ),
)


def findings(rules: Sequence[Rule], agreements: Sequence[Agreement], repair: str) -> list[Finding]:
    """What every check finds in every setting, in the study's order; a check without its number finds nothing.

    Args:
        rules: the rules of a study.
        agreements: of estimates with returns, where both are known.
        repair: the rule with equal weights, which asks no critic.
    """
    return list(_findings(rules, agreements, repair))


def worst(found: Sequence[Finding]) -> State:
    """The worst state among findings."""
    return max((finding.state for finding in found), key=list(State).index, default=State.GREEN)


def _findings(rules: Sequence[Rule], agreements: Sequence[Agreement], repair: str) -> Iterator[Finding]:
    ranks = {
        found.setting: found.over_policies.rho
        for found in agreements
        if found.estimate == "fqe" and found.over_policies is not None
    }
    for setting, members in by_setting(rules).items():
        known = _numbers(members, repair)
        if setting in ranks:
            known["agreement"] = ranks[setting]
        for check in CHECKS:
            value = check.read(known)
            if value is not None:
                yield Finding(setting, check, value)


def _numbers(members: Sequence[Rule], repair: str) -> dict[str, float]:
    """The numbers of a setting that checks read: medians over the seeds of all its rules, and what the data say."""
    values: dict[str, list[float]] = {}
    spreads: list[float] = []
    for rule in members:
        for key, found in rule.diagnostics.items():
            values.setdefault(key, []).extend(found)
        if rule.improvement != repair:
            spreads += rule.diagnostics.get("improvement/value_spread", [])
    known = {key: statistics.median(found) for key, found in values.items() if found}
    if spreads:
        known["spread"] = statistics.median(spreads) / FLOOR
    told = members[0].context.get("dataset") or {}
    return known | {name: float(told[name]) for name in ("episodes", "misaligned") if name in told}
