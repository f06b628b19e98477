"""Numbers of single seeds as rows of a table: mean over seeds, interval, unit, and a sentence that reads the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spar_core.diagnostics.readings import MEANINGS, Others
from spar_core.evaluation.statistics import Estimate, mean_interval


def read(name: str, estimate: Estimate, others: Others) -> str:
    """The sentence that reads a number's mean over seeds. ``others`` holds the other numbers of the cell."""
    told = MEANINGS[name].sentence(estimate.value, others)
    return f"{told} One seed only." if estimate.n == 1 else told


def summarise(values: Mapping[str, Mapping[int, float]], confidence: float) -> dict[str, dict[str, Any]]:
    """One row for each number: unit, meaning, mean over seeds with its t-interval, number of seeds, and reading.

    Args:
        values: by name and seed. A name without values is left out.
        confidence: coverage of the interval, which is None for one seed.
    """
    estimates = {name: mean_interval(list(known.values()), confidence) for name, known in values.items() if known}
    means = {name: estimate.value for name, estimate in estimates.items()}
    return {
        name: {
            "unit": MEANINGS[name].unit,
            "what": MEANINGS[name].what,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "seeds": estimate.n,
            "reading": read(name, estimate, means),
        }
        for name, estimate in estimates.items()
    }
