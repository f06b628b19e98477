"""Do estimates from logged data rank policies as their returns do? One analysis per dataset, anchor and critic.

Without a simulator, a policy is chosen by estimates alone. With one, this analysis says what that choice would have
been worth. Ranks are compared, not values: an estimate is a discounted sum of rewards from the first states of held-out
episodes, a return is an undiscounted sum from the environment's own starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.statistics import seed_means
from spar_core.reporting.numbers.cells import KEYS, OFFLINE, Rule, Setting
from spar_core.reporting.numbers.trend import RankCorrelation, rank_correlation

NAMES = {"fqe": "fitted-Q evaluation", "critic_estimate": "the critic's own estimate"}


@dataclass(frozen=True)
class Agreement:
    """One estimate against the returns of one dataset, anchor and critic.

    Attributes:
        estimate: name of the estimate, one of :data:`spar_core.reporting.numbers.cells.OFFLINE`.
        rules, policies: number of rules, and of policies (one per rule and seed).
        over_rules: rank correlation over rules, each one point: its means over seeds.
        over_policies: rank correlation over policies; the policies of one rule are alike.
        first: the rule with the highest mean estimate.
        regret: mean return of the best rule minus that of ``first``.
    """

    setting: Setting
    estimate: str
    rules: int
    policies: int
    over_rules: RankCorrelation | None
    over_policies: RankCorrelation | None
    first: str
    regret: float

    @property
    def name(self) -> str:
        """Name of the estimate, as the page shows it."""
        return NAMES[self.estimate]

    def metrics(self) -> dict[str, float]:
        """The entries of ``metrics.json``."""
        known = {"rules": self.over_rules, "policies": self.over_policies}
        return {
            f"agreement/{'/'.join(self.setting)}/{self.estimate}/rank_correlation_{over}": found.rho
            for over, found in known.items()
            if found is not None
        }


def policies_frame(rules: Sequence[Rule]) -> pd.DataFrame:
    """One row per policy that has both a return and estimates: cell, seed, mean return, and every estimate."""
    rows: list[dict[str, Any]] = []
    for rule in rules:
        if rule.not_evaluated is None and rule.offline:
            returns = seed_means(rule.episodes["seed"], rule.episodes["return"])
            for seed, value in returns.items():
                estimates = {name: rule.offline.get(name, {}).get(seed) for name in OFFLINE}
                rows.append({**{key: getattr(rule, key) for key in KEYS}, "seed": seed, "return": value, **estimates})
    return pd.DataFrame(rows, columns=[*KEYS, "seed", "return", *OFFLINE])


def agreements(rules: Sequence[Rule]) -> list[Agreement]:
    """The analysis of every estimate in every setting with at least two rules, in the study's order."""
    policies = policies_frame(rules)
    found = []
    for (dataset, anchor, critic), frame in policies.groupby(KEYS[:3], sort=False):
        for estimate in OFFLINE:
            known = frame[frame[estimate].notna()].astype({estimate: float})
            means = known.groupby("improvement", sort=False)[["return", estimate]].mean()
            if len(known) < len(frame) or len(means) < 2:
                continue
            first = str(means[estimate].idxmax())
            found.append(
                Agreement(
                    (dataset, anchor, critic),
                    estimate,
                    len(means),
                    len(known),
                    rank_correlation(means[estimate].tolist(), means["return"].tolist()),
                    rank_correlation(known[estimate].tolist(), known["return"].tolist()),
                    first,
                    float(means["return"].max() - means["return"][first]),
                )
            )
    return found
