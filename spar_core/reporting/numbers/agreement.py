"""Do estimates from logged data rank policies as their returns do? One analysis an anchor and critic that has both.

A practitioner has no simulator and must choose by estimates alone. Where there is one, this says what such a choice
would have been worth. Ranks are compared, not values: an estimate is a discounted sum from the first logged states of
held-out episodes, a return an undiscounted one from the environment's own starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.statistics import seed_means
from spar_core.reporting.numbers.cells import KEYS, OFFLINE, Rule
from spar_core.reporting.numbers.trend import RankCorrelation, rank_correlation

NAMES = {"fqe": "fitted-Q evaluation", "critic_estimate": "the critic's own estimate"}


@dataclass(frozen=True)
class Agreement:
    """One estimate against the returns of one dataset, anchor and critic.

    ``over_rules`` takes each rule's means over seeds as one point, ``over_policies`` every seed's policy, of which
    those of one rule are alike. ``first`` is the rule that the estimate puts first, and ``regret`` what choosing it
    costs against the best rule, both by mean return.
    """

    setting: tuple[str, str, str]
    estimate: str
    rules: int
    policies: int
    over_rules: RankCorrelation | None
    over_policies: RankCorrelation | None
    first: str
    regret: float

    @property
    def name(self) -> str:
        """The estimate in words."""
        return NAMES[self.estimate]

    def metrics(self) -> dict[str, float]:
        """Its part of ``metrics.json``."""
        known = {"rules": self.over_rules, "policies": self.over_policies}
        return {
            f"agreement/{'/'.join(self.setting)}/{self.estimate}/rank_correlation_{over}": found.rho
            for over, found in known.items()
            if found is not None
        }


def policies_frame(rules: Sequence[Rule]) -> pd.DataFrame:
    """A row a policy that was both rolled out and valued: the cell, seed, mean return, and the estimates."""
    rows: list[dict[str, Any]] = []
    for rule in rules:
        if rule.not_evaluated is None and rule.offline:
            returns = seed_means(rule.episodes["seed"], rule.episodes["return"])
            for seed, value in returns.items():
                estimates = {name: rule.offline.get(name, {}).get(seed) for name in OFFLINE}
                rows.append({**{key: getattr(rule, key) for key in KEYS}, "seed": seed, "return": value, **estimates})
    return pd.DataFrame(rows, columns=[*KEYS, "seed", "return", *OFFLINE])


def agreements(rules: Sequence[Rule]) -> list[Agreement]:
    """The analysis of every (dataset, anchor, critic) with two rules or more, and every estimate, in order."""
    policies = policies_frame(rules)
    found = []
    for setting, frame in policies.groupby(KEYS[:3], sort=False):
        for estimate in OFFLINE:
            known = frame[frame[estimate].notna()].astype({estimate: float})
            means = known.groupby("improvement", sort=False)[["return", estimate]].mean()
            if len(known) < len(frame) or len(means) < 2:
                continue
            first = str(means[estimate].idxmax())
            found.append(
                Agreement(
                    setting,
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
