"""The cost of choosing from logged data: the rule ``auto`` and simple strategies against the best option in hindsight.

The options are the anchor and those candidates of ``auto`` that the study also evaluated. The best option in hindsight
has the highest mean return over seeds. It is picked after the fact, by the same episodes that judge the strategies, so
every regret is somewhat too large. Regrets are paired by seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.aggregates import aggregate_interval, mean
from spar_core.evaluation.statistics import Estimate, mean_interval, paired_difference
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule, Setting
from spar_core.reporting.numbers.tables import Summary

COLUMNS = ["dataset", "anchor", "critic", "strategy", "choices", "best_in_hindsight", "seeds"]
BY_FQE, BY_CRITIC = "best by fitted-Q evaluation", "best by the critic"


@dataclass(frozen=True)
class Regret:
    """One strategy in one setting.

    Attributes:
        strategy: how the page names it.
        choices: the options that it chose, each with the number of seeds.
        hindsight: the best option in hindsight.
        returns: mean return of the strategy.
        gain: over the anchor, in units of return.
        regret: mean return of the best option minus that of the strategy.
        score: regret by seed, in points of the normalised score; empty without reference returns.
        comparable: whether the scores are comparable with D4RL tables.
    """

    setting: Setting
    strategy: str
    choices: str
    hindsight: str
    returns: Estimate
    gain: Estimate
    regret: Estimate
    score: dict[int, float]
    comparable: bool

    def row(self) -> dict[str, Any]:
        """The row of ``regret.csv``."""
        known = (*self.setting, self.strategy, self.choices, self.hindsight, self.regret.n)
        row: dict[str, Any] = dict(zip(COLUMNS, known, strict=True))
        row["return_mean"] = self.returns.value
        for name, estimate in (("gain_over_anchor", self.gain), ("regret", self.regret)):
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row["regret_in_score"] = sum(self.score.values()) / len(self.score) if self.score else None
        return row


def regrets(rules: Sequence[Rule], summaries: Sequence[Summary], settings: ReportSettings) -> list[Regret]:
    """Every strategy in every setting with a rule that chooses among candidates, in the study's order.

    Args:
        rules: the rules that were rolled out.
        summaries: the summaries of ``rules``, in the same order.
        settings: the anchor's name, and the width of intervals.
    """
    found = []
    for rule, summary in zip(rules, summaries, strict=True):
        if rule.choices:
            pairs = zip(rules, summaries, strict=True)
            there = {s.improvement: s.per_seed for r, s in pairs if r.setting == rule.setting}
            found += _of_setting(rule, summary, there, settings)
    return found


def _of_setting(
    rule: Rule, summary: Summary, there: Mapping[str, Mapping[int, float]], settings: ReportSettings
) -> list[Regret]:
    """A rule that chooses, and the strategies beside it; ``there`` holds the returns of the setting's rules by seed."""
    seeds = set(summary.per_seed)
    candidates = list(next(iter(rule.choices.values()))["evidence"])
    options = {name: there[name] for name in [settings.baseline, *candidates] if seeds <= set(there.get(name, ()))}
    if settings.baseline not in options or len(options) < 2:
        return []
    hindsight = max(options, key=lambda name: sum(options[name][seed] for seed in seeds))
    picks: dict[str, dict[int, str]] = {f"always `{name}`": dict.fromkeys(seeds, name) for name in options}
    for strategy, measure in ((BY_FQE, "fqe_gain"), (BY_CRITIC, "critic_gain")):
        picks[strategy] = {seed: _best(rule.choices[seed]["evidence"], measure, options, settings) for seed in seeds}
    chosen = {seed: found["chosen"] for seed, found in rule.choices.items()}
    reference = rule.context.get("reference")
    made = [(f"`{rule.improvement}`", chosen, summary.per_seed)]
    made += [(name, pick, {s: options[pick[s]][s] for s in seeds}) for name, pick in picks.items()]
    found = []
    for strategy, pick, returns in made:
        lost = {seed: options[hindsight][seed] - returns[seed] for seed in sorted(seeds)}
        span = reference["max"] - reference["min"] if reference else None
        found.append(
            Regret(
                rule.setting,
                strategy,
                ", ".join(f"{name} x{n}" for name, n in sorted(Counter(pick[s] for s in seeds).items())),
                hindsight,
                mean_interval(list(returns.values()), settings.confidence),
                paired_difference(
                    returns, {seed: options[settings.baseline][seed] for seed in returns}, settings.confidence
                ),
                mean_interval(list(lost.values()), settings.confidence),
                {seed: 100.0 * value / span for seed, value in lost.items()} if span else {},
                bool(rule.context.get("comparable_to_d4rl")),
            )
        )
    return found


def _best(evidence: Mapping[str, Any], measure: str, options: Mapping[str, Any], settings: ReportSettings) -> str:
    """The option with the largest estimated gain over the anchor; the anchor itself where no gain is positive."""
    gains = {name: evidence[name][measure] for name in options if name != settings.baseline}
    best = max(gains, key=lambda name: gains[name])
    return best if gains[best] > 0 else settings.baseline


@dataclass(frozen=True)
class OverallRegret:
    """One strategy over the settings that all strategies share.

    Attributes:
        tasks, runs: number of settings, and of seeds in all of them.
        comparable: whether the scores are comparable with D4RL tables.
        regret: mean regret in points of the normalised score.
    """

    strategy: str
    tasks: int
    runs: int
    comparable: bool
    regret: Estimate


def overall_regrets(entries: Sequence[Regret], confidence: float) -> list[OverallRegret]:
    """Mean regret over settings, all with the same weight; empty for a single setting.

    Scores that are comparable with D4RL tables are kept apart from the others.
    """
    found = []
    for comparable in (True, False):
        by_strategy: dict[str, dict[str, list[float]]] = {}
        for entry in entries:
            if entry.score and entry.comparable == comparable:
                tasks = by_strategy.setdefault(entry.strategy, {})
                tasks["/".join(entry.setting)] = list(entry.score.values())
        shared = set.intersection(*map(set, by_strategy.values())) if by_strategy else set()
        for strategy, by_task in by_strategy.items():
            mine = {task: runs for task, runs in by_task.items() if task in shared}
            if len(mine) > 1:
                runs = sum(map(len, mine.values()))
                estimate = aggregate_interval(mine, mean, confidence)
                found.append(OverallRegret(strategy, len(mine), runs, comparable, estimate))
    return found


def regret_frame(entries: Sequence[Regret]) -> pd.DataFrame:
    """``regret.csv``: one row per strategy and setting."""
    return pd.DataFrame([entry.row() for entry in entries], columns=list(entries[0].row()) if entries else COLUMNS)
