"""Straight lines and rank correlations over a few points, with intervals and p-values that hold for few points.

A point is an anchor and counts once. A quantity that needs more points than there are is None.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from spar_core.evaluation.statistics import Estimate

# A line through two points always fits perfectly.
FEWEST = 3
# Up to this many points the p-value counts every order of the points (5040 orders); with more, the t approximation is
# close.
EXACT = 7
# A share of residual variance below this is rounding error.
ROUNDING = 1e-10


Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """A value on the x axis with its interval; ``low`` and ``high`` are None where the interval has no bounds."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """Ordinary least squares, ``y = intercept + slope x``, over ``n`` points; x and y have their own units.

    Attributes:
        mean: mean of x.
        spread: sum of the squared deviations of x from its mean.
        noise: standard deviation of the residuals, with n - 2 in the denominator.
        confidence: coverage of the slope's interval and of the band.
    """

    intercept: float
    slope: Estimate
    n: int
    mean: float
    spread: float
    noise: float
    confidence: float

    @property
    def quantile(self) -> float:
        """Quantile of Student's t for two-sided intervals, with n - 2 degrees of freedom."""
        return float(stats.t.ppf(0.5 + self.confidence / 2, self.n - 2))

    def at(self, x: Array) -> Array:
        """Height of the line at ``x``, ``[m]``."""
        return self.intercept + self.slope.value * np.asarray(x, dtype=float)

    def half_band(self, x: Array) -> Array:
        """Half the height, at ``x``, of the confidence band of the line (of the mean of y, not of a new point)."""
        away = (np.asarray(x, dtype=float) - self.mean) ** 2
        return self.quantile * self.noise * np.sqrt(1 / self.n + away / self.spread)

    @property
    def tilt(self) -> int:
        """1 where the slope's interval lies above 1, -1 where it lies below 1, else 0."""
        low, high = self.slope.low, self.slope.high
        if low is None or high is None:
            return 0
        return 1 if low > 1 else -1 if high < 1 else 0

    def crossing(self) -> Span | None:
        """The x at which the line crosses the identity, with Fieller's interval: all x whose band holds the identity.

        None for a slope of exactly 1. The interval has no bounds where the slope's interval includes 1, since a line
        parallel to the identity then fits too.
        """
        rise = self.slope.value - 1.0
        if rise == 0.0:
            return None
        # With u = x - mean, the line lies `level + rise u` above the identity, and half its band is
        # sqrt(width (1/n + u^2 / spread)).
        level = float(self.at(np.asarray(self.mean))) - self.mean
        value = self.mean - level / rise
        width = (self.quantile * self.noise) ** 2
        square = rise**2 - width / self.spread
        if not self.tilt or square <= 0:
            return Span(value, None, None)
        root = math.sqrt(max(0.0, level**2 * width / self.spread + square * width / self.n))
        ends = [self.mean + (-level * rise + sign * root) / square for sign in (-1, 1)]
        return Span(value, min(ends), max(ends))


def fit_line(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Line | None:
    """Least squares over points; None for fewer than three points, or where x does not vary.

    Args:
        x: ``[n]`` finite values.
        y: ``[n]`` finite values.
        confidence: coverage of the slope's interval and of the band.
    """
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    n = len(across)
    if len(up) != n:
        raise ValueError(f"{n} values of x and {len(up)} of y")
    if n < FEWEST or not _varies(across):
        return None
    mean = float(across.mean())
    spread = float(((across - mean) ** 2).sum())
    slope = float(((across - mean) * (up - up.mean())).sum() / spread)
    intercept = float(up.mean()) - slope * mean
    noise = math.sqrt(float(((up - intercept - slope * across) ** 2).sum()) / (n - 2))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 2)) * noise / math.sqrt(spread)
    return Line(intercept, Estimate(slope, slope - half, slope + half, n), n, mean, spread, noise, confidence)


def explained_share(columns: Sequence[Sequence[float]], y: Sequence[float]) -> float | None:
    """R^2 of the least-squares fit of y on columns and a constant; None for too few points or a constant variable."""
    up = np.asarray(y, dtype=float)
    if len(up) < len(columns) + 2 or not _varies(up):
        return None
    if not all(map(_varies, columns)):
        return None
    design = [_standardised(column) for column in columns]
    matrix = np.column_stack([np.ones(len(up)), *design])
    residual = up - matrix @ np.linalg.lstsq(matrix, up, rcond=None)[0]
    return float(1 - (residual**2).sum() / ((up - up.mean()) ** 2).sum())


@dataclass(frozen=True)
class Added:
    """R^2 that a second predictor adds, and the p-value of the partial F-test (None where the first explains all)."""

    share: float
    p: float | None


def added_share(first: Sequence[float], second: Sequence[float], y: Sequence[float]) -> Added | None:
    """R^2 that ``second`` adds beyond ``first``; None for fewer than four points, or where a column does not vary."""
    alone, both = explained_share([first], y), explained_share([first, second], y)
    if alone is None or both is None:
        return None
    if 1 - alone < ROUNDING:
        return Added(0.0, None)
    left, freedom = max(1 - both, 0.0), len(y) - 3
    ratio = (both - alone) * freedom / left if left > ROUNDING else math.inf
    return Added(max(both - alone, 0.0), float(stats.f.sf(ratio, 1, freedom)))


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho, and the two-sided p-value against no relation."""

    rho: float
    p: float


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> RankCorrelation | None:
    """Spearman's rho; None for fewer than three points, or where x or y does not vary.

    Up to ``EXACT`` points, the p-value is the share of all orders of the points with at least this correlation. The t
    approximation fails there: it gives three points in a row a p-value of 0, though one order in three is such a row.
    """
    if len(x) < FEWEST or not _varies(x) or not _varies(y):
        return None
    ranks, others = stats.rankdata(x), stats.rankdata(y)
    if len(x) > EXACT:
        result = stats.spearmanr(x, y)
        return RankCorrelation(float(result.statistic), float(result.pvalue))
    ranks, others = ranks - ranks.mean(), others - others.mean()
    scale = math.sqrt(float((ranks**2).sum() * (others**2).sum()))
    orders = np.array(list(itertools.permutations(others)))
    possible = orders @ ranks / scale
    rho = float(others @ ranks) / scale
    return RankCorrelation(rho, float(np.mean(np.abs(possible) >= abs(rho) - 1e-9)))


def _standardised(column: Sequence[float]) -> Array:
    """The column with mean 0 and standard deviation 1, since columns have different units."""
    values = np.asarray(column, dtype=float)
    standardised: Array = (values - values.mean()) / values.std()
    return standardised


def _varies(values: Sequence[float] | Array) -> bool:
    """Whether the values differ by more than rounding."""
    return bool(np.ptp(values) > 1e-12 * max(1.0, float(np.max(np.abs(values)))))
