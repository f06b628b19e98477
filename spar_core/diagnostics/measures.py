r"""Measured numbers with intervals over episodes, and the rows in which artifacts keep them.

States of one episode are alike, so the episode is the independent unit: whole episodes are drawn with replacement,

.. math:: \hat\theta^{(b)} = \frac{\sum_e n_e^{(b)} \sum_{i \in e} x_i}{\sum_e n_e^{(b)} \sum_{i \in e} y_i}

where episode e is drawn :math:`n_e^{(b)}` times. The ends of the interval are quantiles of :math:`\hat\theta^{(b)}`. It
speaks of other episodes of the same data for one trained seed, and not of other seeds.

Source: the percentile bootstrap of Efron and Tibshirani (1993, chapter 13), for clusters (Davison and Hinkley 1997,
section 3.8). Like any percentile bootstrap, it is too narrow for few episodes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

MEASURES, PROFILES = "measures.csv", "profiles.csv"
MEASURE_COLUMNS = ["seed", "name", "value", "low", "high", "states", "episodes"]
PROFILE_COLUMNS = ["seed", "name", "at", "value"]


@dataclass(frozen=True)
class Measure:
    """One number of one seed. ``value`` is None if it is missing, ``low`` and ``high`` if there is no interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    states: int | None = None
    episodes: int | None = None


@dataclass
class Findings:
    """All measurements of one seed: numbers, profiles (name, at, value) such as histograms, and curves."""

    seed: int
    measures: list[Measure] = field(default_factory=list)
    profiles: list[tuple[str, float, float]] = field(default_factory=list)
    curves: list[tuple[int, int, str, float]] = field(default_factory=list)

    def add(self, *measures: Measure) -> None:
        """Add measures."""
        self.measures += measures

    def number(self, name: str, value: float | None) -> None:
        """Add a number without an interval. A number that is not finite is missing."""
        self.measures.append(Measure(name, value if value is not None and math.isfinite(value) else None))

    def profile(self, name: str, at: Iterable[float], values: Iterable[float]) -> None:
        """Add a profile, a row for each point."""
        self.profiles += [(name, float(a), float(v)) for a, v in zip(at, values, strict=True)]

    def value(self, name: str) -> float | None:
        """The value of the measure ``name``."""
        return next(measure.value for measure in self.measures if measure.name == name)


class Episodes:
    """Intervals of numbers that are measured at n states, by resampling the episodes of these states."""

    def __init__(self, episodes: np.ndarray, resamples: int, confidence: float, seed: int = 0) -> None:
        """Args: ``episodes`` [n], the episode of each state; ``seed``, of the resampling."""
        names, self.of_state = np.unique(episodes, return_inverse=True)
        self.n, self.resamples, self.confidence, self.seed = len(names), resamples, confidence, seed

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each resample draws each episode, [R, E]."""
        draws = np.random.default_rng(self.seed).multinomial(self.n, np.full(self.n, 1 / self.n), self.resamples)
        return draws.astype(np.float64)

    def mean(self, name: str, values: np.ndarray) -> Measure:
        """Mean of one value for each state, [n]. States with NaN are left out."""
        known = np.isfinite(values)
        return self.ratio(name, np.where(known, values, 0.0), known.astype(np.float64))

    def ratio(self, name: str, above: np.ndarray, below: np.ndarray) -> Measure:
        """The sum of ``above`` [n] divided by the sum of ``below`` [n]."""
        top, bottom = (np.bincount(self.of_state, x.astype(np.float64), self.n) for x in (above, below))
        if bottom.sum() <= 0:
            return Measure(name, None, states=0, episodes=self.n)
        # Products are summed in a fixed order. The rounding of a matrix product may depend on the number of threads.
        sums = [(self.counts * column).sum(axis=1) for column in (top, bottom)]
        drawn = np.divide(sums[0], sums[1], out=np.full(self.resamples, np.nan), where=sums[1] > 0)
        return self._measure(name, top.sum() / bottom.sum(), drawn, int((below != 0).sum()))

    def statistic(self, name: str, function: Callable[[np.ndarray], float]) -> Measure:
        """A function of the indices [m] of states. A resample repeats an episode's states as often as it is drawn."""
        every = np.arange(len(self.of_state))
        times = self.counts.astype(int)
        drawn = np.array([function(np.repeat(every, row[self.of_state])) for row in times])
        return self._measure(name, function(every), drawn, len(every))

    def _measure(self, name: str, value: float, drawn: np.ndarray, states: int) -> Measure:
        if not math.isfinite(value):
            return Measure(name, None, states=states, episodes=self.n)
        drawn = drawn[np.isfinite(drawn)]
        if self.n < 2 or len(drawn) < 2:
            return Measure(name, float(value), states=states, episodes=self.n)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Measure(name, float(value), float(low), float(high), states, self.n)


def write_findings(folder: Path, found: Sequence[Findings]) -> None:
    """Write ``measures.csv`` and ``profiles.csv`` in seed order, with exact floats; missing values are empty."""
    rows: list[dict[str, Any]] = [{"seed": f.seed, **vars(measure)} for f in found for measure in f.measures]
    _write(folder / MEASURES, MEASURE_COLUMNS, rows)
    points = [dict(zip(PROFILE_COLUMNS, (f.seed, *row), strict=True)) for f in found for row in f.profiles]
    _write(folder / PROFILES, PROFILE_COLUMNS, points)


def by_name(found: Sequence[Findings]) -> dict[str, list[float | None]]:
    """The numbers in the form of ``metrics.json``, one value a seed."""
    names = dict.fromkeys(measure.name for f in found for measure in f.measures)
    known = [{measure.name: measure.value for measure in f.measures} for f in found]
    return {name: [values.get(name) for values in known] for name in names}


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
