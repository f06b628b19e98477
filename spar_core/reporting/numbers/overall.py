"""Scores of all datasets of a study as one number per rule: mean, IQM, median and optimality gap.

A task is a dataset, a run is a seed. Scores are normalised, so only datasets with reference returns count. Scores that
are comparable with D4RL tables are never mixed with scores that are not. Rules are compared over the datasets on which
all of them were run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.aggregates import AGGREGATES, aggregate_interval
from spar_core.evaluation.statistics import Estimate, normalised_score
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.tables import Summary

COLUMNS = ["anchor", "critic", "improvement", "tasks", "runs", "comparable_to_d4rl"]


@dataclass(frozen=True)
class Overall:
    """One rule, with one anchor and critic, over several datasets.

    Attributes:
        tasks: the datasets.
        runs: number of seeds of all datasets together.
        comparable: whether the scores are comparable with D4RL tables.
        values: the aggregates by name.
        label: which published scores these may be compared with.
    """

    anchor: str
    critic: str
    improvement: str
    tasks: tuple[str, ...]
    runs: int
    comparable: bool
    values: dict[str, Estimate]
    label: str

    def metrics(self) -> dict[str, float]:
        """The entries of ``metrics.json``; empty for one dataset, whose own keys hold its score."""
        if len(self.tasks) < 2:
            return {}
        scale = "d4rl" if self.comparable else "not_d4rl"
        prefix = f"overall/{scale}/{self.anchor}/{self.critic}/{self.improvement}"
        return {f"{prefix}/{name}": estimate.value for name, estimate in self.values.items()}

    def row(self) -> dict[str, Any]:
        """The row of ``overall.csv``."""
        known = (self.anchor, self.critic, self.improvement, len(self.tasks), self.runs, self.comparable)
        row: dict[str, Any] = dict(zip(COLUMNS, known, strict=True))
        for name, estimate in self.values.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return row


def overall(rules: Sequence[Rule], summaries: Sequence[Summary], settings: ReportSettings) -> list[Overall]:
    """One entry per rule, anchor and critic, in the study's order; no entry where no dataset has reference returns.

    Args:
        rules: the rules that were rolled out.
        summaries: the summaries of ``rules``, in the same order.
        settings: the width of intervals.
    """
    scores: dict[bool, dict[tuple[str, str, str], dict[str, list[float]]]] = {True: {}, False: {}}
    labels: dict[str, str] = {}
    for rule, summary in zip(rules, summaries, strict=True):
        reference = rule.context.get("reference")
        if reference:
            key = (rule.anchor, rule.critic, rule.improvement)
            bounds = reference["min"], reference["max"]
            runs = [normalised_score(value, *bounds) for value in summary.per_seed.values()]
            comparable = bool(rule.context.get("comparable_to_d4rl"))
            scores[comparable].setdefault(key, {})[rule.dataset] = runs
            labels[rule.dataset] = str(rule.context.get("label"))
    return [
        entry
        for comparable, by_rule in scores.items()
        for entry in _together(by_rule, comparable, labels, settings.confidence)
    ]


def _together(
    scores: Mapping[tuple[str, str, str], Mapping[str, list[float]]],
    comparable: bool,
    labels: Mapping[str, str],
    confidence: float,
) -> Iterator[Overall]:
    """Entries of all rules, by (anchor, critic, improvement), over the datasets that all of them have."""
    # Otherwise a rule that was not run on a hard dataset would look better.
    shared = set.intersection(*map(set, scores.values())) if scores else set()
    for key, by_task in scores.items():
        mine = {task: runs for task, runs in by_task.items() if task in shared}
        if mine:
            values = {name: aggregate_interval(mine, f, confidence) for name, f in AGGREGATES.items()}
            said = "; ".join(dict.fromkeys(labels[task] for task in mine))
            yield Overall(*key, tuple(mine), sum(map(len, mine.values())), comparable, values, said)


def overall_frame(entries: Sequence[Overall]) -> pd.DataFrame:
    """``overall.csv``: one row per rule, anchor and critic."""
    names = list(entries[0].row()) if entries else [*COLUMNS, *AGGREGATES]
    return pd.DataFrame([entry.row() for entry in entries], columns=names)
