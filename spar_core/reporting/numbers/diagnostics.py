"""The diagnostics of a setting's rules, in the form of the page's table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.reporting.numbers.cells import Rule


@dataclass(frozen=True)
class Diagnostic:
    """One diagnostic of the ``rules`` that share its values: median, lowest and highest of ``n`` seeds."""

    key: str
    rules: tuple[str, ...]
    median: float
    low: float
    high: float
    n: int


def diagnostics(rules: Sequence[Rule]) -> list[Diagnostic]:
    """Diagnostics of the rules of one setting, sorted by key.

    Rules with equal values share an entry: the diagnostics of an anchor or a critic are the same for every rule.
    """
    groups: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    for rule in rules:
        for key, values in rule.diagnostics.items():
            if values:
                groups.setdefault((key, tuple(map(float, values))), []).append(rule.improvement)
    order = sorted(groups, key=lambda group: group[0])  # stable, so that a key keeps the study's order
    return [
        Diagnostic(
            key=key,
            rules=tuple(groups[key, values]),
            median=statistics.median(values),
            low=min(values),
            high=max(values),
            n=len(values),
        )
        for key, values in order
    ]
