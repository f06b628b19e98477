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
from typing import Any

from spar_core.data.alignment import LEAD
from spar_core.reporting.numbers.agreement import Agreement
from spar_core.reporting.numbers.cells import Rule, Setting, by_setting

PARTS = ("data", "anchor", "residual model", "critic", "estimates")
# The spread of the critic's values among candidates is never reported below this floor, the default of `spread_floor`.
# It is not imported, since a change of a rule would then rerun every report.
FLOOR = 1e-3


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
        amber, red: limits; beyond them the part is amber or red. Where ``red < amber``, small values are bad.
        found: what a value beyond the limits means, as a sentence with a field for the ``value`` or its ``size``.
        advice: what to do, as a sentence.
        read: the number from the medians over seeds of a setting's diagnostics; None where they lack it.
    """

    part: str
    amber: float
    red: float
    found: str
    advice: str
    read: Callable[[Mapping[str, float]], float | None]

    def state(self, value: float) -> State:
        """Where the value lies."""
        sign = 1.0 if self.red > self.amber else -1.0
        if sign * value >= sign * self.red:
            return State.RED
        return State.AMBER if sign * value >= sign * self.amber else State.GREEN


@dataclass(frozen=True)
class Finding:
    """What a check found in one setting."""

    setting: Setting
    check: Check
    value: float

    @property
    def text(self) -> str:
        """What was found, as a sentence."""
        return self.check.found.format(value=self.value, size=abs(self.value))

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
        20,
        5,
        "The dataset has {value:.0f} episodes, so held-out measures rest on very few.",
        "Add episodes.",
        _value("episodes"),
    ),
    Check(
        "data",
        LEAD,
        0.1,
        "Actions of another row explain {value:.0%} more of the changes of observations than those of the same row: "
        "rows of the log look shifted.",
        "See the note of `download`, which says by how many rows, and correct the log.",
        _value("misaligned"),
    ),
    Check(
        "data",
        0.2,
        1.1,
        "The data act in two ways in {value:.0%} of the states, where an anchor of one action takes the mean of both.",
        "Try an anchor that keeps modes, such as `mixture` or `flow`.",
        _value("anchor/bimodal_share"),
    ),
    Check(
        "anchor",
        1.5,
        3.0,
        "The anchor's error on held-out episodes is {value:.2g} times that in training: it memorises.",
        "Add data or weight decay, or train it for fewer steps.",
        _ratio("anchor/heldout_mse", "anchor/train_mse"),
    ),
    Check(
        "residual model",
        1.2,
        2.0,
        "Held-out residuals are {value:.2g} times as long as those of training, because the anchor memorises.",
        "Mend the anchor; a larger radius does not help.",
        _ratio("residual/norm_heldout", "residual/norm_train"),
    ),
    Check(
        "residual model",
        0.05,
        0.2,
        "{value:.0%} of the data's residuals lie beyond the radius, where no candidate reaches.",
        "Raise `residual.radius_quantile`.",
        _value("residual/clipped_share"),
    ),
    Check(
        "residual model",
        0.1,
        0.01,
        "The latent carries {value:.2g} nats: all candidates of a state are alike, so that there is nothing to choose.",
        "Lower `residual.beta`, or train the residual model for more steps.",
        _value("residual/kl"),
    ),
    Check(
        "critic",
        2.0,
        1.01,
        "The critic's values of the candidates of a state differ by {value:.2g} times the smallest difference that "
        "counts: it values all actions alike.",
        "Train the critic for more steps, and check that rewards depend on actions.",
        _value("spread"),
    ),
    Check(
        "critic",
        0.1,
        0.01,
        "The mean weight of a logged action in `awr` is {value:.2g}: nearly none counts.",
        "Lower `inverse_temperature` of `awr`, or train the critic for more steps.",
        _value("improvement/weight_mean"),
    ),
    Check(
        "critic",
        0.5,
        0.2,
        "The critic's values of held-out steps have a rank correlation of {value:.2g} with the observed returns.",
        "Train the critic for more steps.",
        _value("critic/rank_correlation"),
    ),
    Check(
        "critic",
        0.5,
        1.0,
        "The critic values the best tenth of the episodes {size:.2g} standard deviations of the returns above what "
        "they returned: it may have diverged.",
        "Lower its learning rate or its discount.",
        _value("critic/gap_best_tenth"),
    ),
    Check(
        "critic",
        -0.5,
        -1.0,
        "The critic values the best tenth of the episodes {size:.2g} standard deviations of the returns below what "
        "they returned: it underrates good behaviour.",
        "Train the critic for more steps; if that does not help, raise its `expectile`.",
        _value("critic/gap_best_tenth"),
    ),
    Check(
        "critic",
        0.5,
        1.0,
        "Just before terminations the critic's values lie {value:.2g} standard deviations of the returns above what "
        "followed: it does not foresee them.",
        "Train the critic for more steps, and check that the data mark terminations as such.",
        _value("critic/gap_before_termination"),
    ),
    Check(
        "estimates",
        0.1,
        0.5,
        "Fitted-Q evaluation leaves what rewards allow in {value:.0%} of the states.",
        "Choose by returns, or by the critic's estimate.",
        _value("fqe/clipped_share"),
    ),
    Check(
        "estimates",
        0.5,
        0.1,
        "Fitted-Q evaluation has a rank correlation of {value:.2g} with the returns of these policies.",
        "Choose by returns.",
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


def data_findings(manifest: Mapping[str, Any]) -> list[Finding]:
    """What the checks of the data find that need no training, from the manifest of a dataset."""
    lead = manifest.get("misaligned", {}).get("lead")
    known = {"episodes": float(manifest["episodes"]), **({} if lead is None else {"misaligned": float(lead)})}
    read = ((check, check.read(known)) for check in CHECKS if check.part == "data")
    return [Finding((manifest["dataset"], "", ""), check, value) for check, value in read if value is not None]


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
