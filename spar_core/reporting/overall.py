"""Scores of all datasets of a study as one number a rule: mean, IQM, median and optimality gap.

A task is a dataset, a run a seed; scores are normalised, so only datasets with reference returns count. Rules are
compared over the same datasets: those on which each of them was run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.aggregates import AGGREGATES, aggregate_interval
from spar_core.reporting.cells import Rule
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.tables import Summary
from spar_core.statistics import Estimate, normalised_score

COLUMNS = ["anchor", "critic", "improvement", "tasks", "runs"]


@dataclass(frozen=True)
class Overall:
    """One rule, with one anchor and critic, over the datasets ``tasks``."""

    anchor: str
    critic: str
    improvement: str
    tasks: tuple[str, ...]
    runs: int
    values: dict[str, Estimate]
    label: str | None

    def metrics(self) -> dict[str, float]:
        """Its part of ``metrics.json``: what several datasets say together (one says it in its own keys)."""
        if len(self.tasks) < 2:
            return {}
        prefix = f"overall/{self.anchor}/{self.critic}/{self.improvement}"
        return {f"{prefix}/{name}": estimate.value for name, estimate in self.values.items()}

    def row(self) -> dict[str, Any]:
        """Its row of ``overall.csv``."""
        known = (self.anchor, self.critic, self.improvement, len(self.tasks), self.runs)
        row: dict[str, Any] = dict(zip(COLUMNS, known, strict=True))
        for name, estimate in self.values.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return row


def overall(rules: Sequence[Rule], summaries: Sequence[Summary], settings: ReportSettings) -> list[Overall]:
    """One entry a rule, anchor and critic, in the study's order; nothing where no dataset has reference returns.

    Args:
        rules: those that were rolled out.
        summaries: of ``rules``, in the same order.
        settings: how wide intervals are.
    """
    scores: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    labels: dict[str, str] = {}
    for rule, summary in zip(rules, summaries, strict=True):
        reference = rule.context.get("reference")
        if reference:
            key = (rule.anchor, rule.critic, rule.improvement)
            bounds = reference["min"], reference["max"]
            runs = [normalised_score(value, *bounds) for value in summary.per_seed.values()]
            scores.setdefault(key, {})[rule.dataset] = runs
            labels[rule.dataset] = str(rule.context.get("label"))
    # A rule that was left out on a hard dataset would look better for it.
    shared = set.intersection(*map(set, scores.values())) if scores else set()
    found = []
    for (anchor, critic, improvement), by_task in scores.items():
        tasks = tuple(task for task in by_task if task in shared)
        if not tasks:
            continue
        mine = {task: by_task[task] for task in tasks}
        values = {name: aggregate_interval(mine, f, settings.confidence) for name, f in AGGREGATES.items()}
        runs = sum(map(len, mine.values()))
        said = "; ".join(dict.fromkeys(labels[task] for task in tasks))
        found.append(Overall(anchor, critic, improvement, tasks, runs, values, said))
    return found


def overall_frame(entries: Sequence[Overall]) -> pd.DataFrame:
    """``overall.csv``: one row a rule, anchor and critic."""
    names = list(entries[0].row()) if entries else [*COLUMNS, *AGGREGATES]
    return pd.DataFrame([entry.row() for entry in entries], columns=names)
