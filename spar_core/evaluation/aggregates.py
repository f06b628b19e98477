"""Scores of several tasks as one number with its uncertainty.

The statistics are those of Agarwal et al. 2021 ("Deep Reinforcement Learning at the Edge of the Statistical Precipice",
https://arxiv.org/abs/2108.13264). Scores map a task (a dataset) to one value a run. A run is a training seed; its value
is the mean over its episodes. Statistics also take arrays ``[..., runs]`` and return ``[...]``; all resamples are
evaluated at once in this way.

An interval is given only where ``benchmarks/interval_coverage.py`` showed that it covers; elsewhere it is None.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from spar_core.errors import SparError
from spar_core.evaluation.statistics import Estimate

Scores = Mapping[str, ArrayLike]
# A float for plain scores, an array for scores with leading axes.
Number = Any

RESAMPLES = 2000
# Differences below this share of the value come from rounding.
ROUNDING = 1e-10
# For each statistic the smallest number of runs a task, and of tasks, from which on its interval holds the truth in 93
# to 97% of cases with the populations "returns" and "normal" of benchmarks/interval_coverage.py: mean 93.1 to 96.2,
# interquartile mean 93.8 to 96.2, median 94.0 to 96.2, probability of improvement 95.6 to 96.4. Other statistics have
# no interval: with up to 20 runs, their coverage left this range for some number of tasks (optimality gap from 89.0,
# profile from 88.5 to 100).
SHOWN = {"mean": (3, 1), "iqm": (3, 5), "median": (20, 1), "probability_of_improvement": (20, 3)}


def mean(scores: Scores) -> Number:
    """Mean over tasks of the mean over runs."""
    return np.mean(_task_means(_arrays(scores)), axis=0)


def iqm(scores: Scores) -> Number:
    """Interquartile mean: the mean of all runs of all tasks without the lowest and the highest quarter.

    A quarter is rounded down to whole runs.
    """
    return stats.trim_mean(np.concatenate(_arrays(scores), axis=-1), 0.25, axis=-1)


def median(scores: Scores) -> Number:
    """Median over tasks of the mean over runs."""
    return np.median(_task_means(_arrays(scores)), axis=0)


def optimality_gap(scores: Scores, target: float = 100.0) -> Number:
    """Mean shortfall of runs from the target; a run beyond the target has none. Each task weighs the same."""
    return target - np.mean(_task_means([np.minimum(runs, target) for runs in _arrays(scores)]), axis=0)


AGGREGATES: dict[str, Callable[..., Number]] = {
    "mean": mean,
    "iqm": iqm,
    "median": median,
    "optimality_gap": optimality_gap,
}


def probability_of_improvement(ours: Scores, other: Scores) -> Number:
    """Mean over tasks of the chance that a run of ``ours`` beats a run of ``other`` (Mann-Whitney).

    A tie counts half.

    Raises:
        SparError: the two do not have the same tasks, or a task has no run.
    """
    if set(ours) != set(other):
        alone = sorted(set(ours) ^ set(other))
        raise SparError(f"a probability of improvement needs the same tasks on both sides; only on one: {alone}")
    pairs = zip(_arrays(ours), _arrays(other), strict=True)
    wins = [0.5 + 0.5 * np.sign(a[..., :, None] - b[..., None, :]).mean(axis=(-1, -2)) for a, b in pairs]
    return np.mean(wins, axis=0)


def performance_profile(scores: Scores, thresholds: Sequence[float]) -> np.ndarray:
    """Share of runs above each threshold, ``[..., thresholds]``. Each task weighs the same."""
    levels = np.asarray(thresholds, dtype=float)
    return np.asarray(np.mean([(runs[..., None] > levels).mean(axis=-2) for runs in _arrays(scores)], axis=0))


def aggregate_interval(
    scores: Scores,
    statistic: Callable[[Scores], Number],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """A statistic of scores with its interval from the stratified bootstrap (:func:`student_interval`).

    Args:
        scores: task to the values of its runs.
        statistic: one of :data:`AGGREGATES`, or a function with the same arguments.
        confidence: coverage in (0, 1).
        resamples: number of times that the runs of each task are drawn anew.
        seed: of the resampling; the same scores and seed give the same bytes, whatever the order of tasks and runs.

    Returns:
        The value with its interval; ``n`` is the number of runs of the task that has the fewest. The ends are None
        where there are too few runs or tasks for the statistic (:func:`interval_is_shown`), or where no resample
        differs from the value.

    Raises:
        SparError: there is no task, or a task has no run.
    """
    value, fewest = float(statistic(scores)), _fewest(scores)
    if not interval_is_shown(getattr(statistic, "__name__", ""), fewest, len(scores)):
        return Estimate(value, None, None, fewest)
    drawn = resample(scores, resamples, seed)
    low, high = student_interval(np.asarray(value), statistic(drawn.values), drawn.counts, confidence)
    return _estimate(value, low, high, fewest)


def improvement_interval(
    ours: Scores, other: Scores, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """:func:`probability_of_improvement` with its interval. The runs of each side are drawn anew by themselves.

    Arguments, result and errors are those of :func:`aggregate_interval`.
    """
    value = float(probability_of_improvement(ours, other))
    fewest = min(_fewest(ours), _fewest(other))
    if not interval_is_shown("probability_of_improvement", fewest, len(ours)):
        return Estimate(value, None, None, fewest)
    sides = resample(ours, resamples, seed, "ours"), resample(other, resamples, seed, "other")
    resampled = probability_of_improvement(sides[0].values, sides[1].values)
    counts = [*sides[0].counts, *sides[1].counts]
    low, high = student_interval(np.asarray(value), resampled, counts, confidence, share=True)
    return _estimate(value, low, high, fewest)


def profile_band(
    scores: Scores, thresholds: Sequence[float], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> list[Estimate]:
    """:func:`performance_profile` with an interval at each threshold, one estimate a threshold.

    Each interval covers at its own threshold; the whole curve is covered less often. Arguments and errors are those of
    :func:`aggregate_interval`.
    """
    profile, fewest = performance_profile(scores, thresholds), _fewest(scores)
    if not interval_is_shown("performance_profile", fewest, len(scores)):
        return [Estimate(float(value), None, None, fewest) for value in profile]
    drawn = resample(scores, resamples, seed)
    resampled = performance_profile(drawn.values, thresholds).T
    low, high = student_interval(profile, resampled, drawn.counts, confidence, share=True)
    return [_estimate(float(v), a, b, fewest) for v, a, b in zip(profile, low, high, strict=True)]


def interval_is_shown(statistic: str, runs: int, tasks: int) -> bool:
    """Whether the interval of a statistic was shown to cover with this number of tasks and of runs a task.

    Args:
        statistic: name of the statistic.
        runs: of the task that has the fewest.
        tasks: number of tasks.
    """
    fewest_runs, fewest_tasks = SHOWN.get(statistic, (math.inf, math.inf))
    return runs >= fewest_runs and tasks >= fewest_tasks


@dataclass(frozen=True)
class Resamples:
    """Runs drawn with replacement within each task.

    Attributes:
        values: task to the drawn values, ``[resamples, runs]``.
        counts: for each task how often each run was drawn, ``[resamples, runs]``.
    """

    values: dict[str, np.ndarray]
    counts: list[np.ndarray]


def resample(scores: Scores, resamples: int, seed: int, side: str = "") -> Resamples:
    """Draw the runs of each task anew.

    The draws of a task depend on the seed, the side, the task's name and its number of runs.
    """
    values, counts = {}, []
    for task in sorted(scores):
        runs = _checked(task, scores[task])
        rng = np.random.default_rng([seed, zlib.crc32(side.encode()), zlib.crc32(task.encode())])
        rows = rng.integers(len(runs), size=(resamples, len(runs)))
        values[task] = runs[rows]
        counts.append((rows[:, :, None] == np.arange(len(runs))).sum(axis=1))
    return Resamples(values, counts)


def student_interval(
    value: np.ndarray,
    resampled: np.ndarray,
    counts: Sequence[np.ndarray],
    confidence: float,
    share: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Student t-interval whose standard error is the bootstrap's.

    With few runs a plain bootstrap interval is too short, for two reasons: resampling n runs makes a task's variance
    ``(n - 1) / n`` of what it should be, and normal quantiles take that variance as known. So the resampled statistic
    is regressed on how often each run was drawn. The squared coefficients of a task's runs add up to the task's part of
    the variance. This is the infinitesimal jackknife (Efron 2014, https://doi.org/10.1080/01621459.2013.823775) without
    the noise of resampling, as far as the statistic is linear; the residuals hold what is not linear. Each task's part
    is then scaled by ``n / (n - 1)``, and the parts give the degrees of freedom by the formula of Welch and
    Satterthwaite. For the mean over tasks the result is Welch's t-interval, and for one task
    :func:`spar_core.evaluation.statistics.mean_interval`.

    Args:
        value: ``[...]`` the statistic.
        resampled: ``[..., resamples]`` the statistic of each resample.
        counts: for each task ``[resamples, runs]`` how often each run was drawn, runs at least 2.
        confidence: coverage in (0, 1).
        share: whether the statistic is a share in [0, 1]. Its interval is made on the scale of its log-odds, which
            keeps it inside [0, 1].

    Returns:
        Lower and upper ends ``[...]``. They are NaN where all resamples are equal.
    """
    size, freedom = len(counts[0]), np.array([count.shape[1] - 1 for count in counts], dtype=float)
    centred = resampled - resampled.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1)
    # Resamples that differ by rounding alone count as equal.
    variance = np.where(variance > (ROUNDING * np.maximum(1, np.abs(value))) ** 2, variance, np.nan)
    design = np.concatenate([count - count.mean(axis=0) for count in counts], axis=1)
    products = centred @ design
    # The counts of a task add up to its number of runs, so the matrix is singular and takes a pseudo-inverse.
    slopes = products @ np.linalg.pinv(design.T @ design, hermitian=True)
    left = np.maximum(variance - (products * slopes).sum(axis=-1) / size, 0) * size / max(size - design.shape[1], 1)
    starts = np.cumsum([0, *(count.shape[1] for count in counts[:-1])])
    parts = np.add.reduceat(slopes**2, starts, axis=-1) - left[..., None] * freedom / size
    # A task that adds nothing gets a small part, against a division by zero.
    parts = np.maximum(parts, 1e-6 * variance[..., None])
    variance = parts.sum(axis=-1) + left
    scaled = parts * (freedom + 1) / freedom
    with np.errstate(divide="ignore", invalid="ignore"):  # a share of 0 or 1 has no interval
        error = np.sqrt(variance * scaled.sum(axis=-1) / parts.sum(axis=-1))
        degrees = scaled.sum(axis=-1) ** 2 / (scaled**2 / freedom).sum(axis=-1)
        half = stats.t.ppf(0.5 + confidence / 2, degrees) * error
        if not share:
            return value - half, value + half
        odds = special.logit(value)
        half = half / (value * (1 - value))
        return special.expit(odds - half), special.expit(odds + half)


def _estimate(value: float, low: np.ndarray, high: np.ndarray, n: int) -> Estimate:
    """The value with its ends, which are None where they are not finite.

    Ends keep ten digits, because later ones depend on the number of threads.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(value, None, None, n)
    return Estimate(value, float(f"{low:.10g}"), float(f"{high:.10g}"), n)


def _fewest(scores: Scores) -> int:
    """Number of runs of the task that has the fewest."""
    return min(int(runs.shape[-1]) for runs in _arrays(scores))


def _arrays(scores: Scores) -> list[np.ndarray]:
    """Runs of each task, ``[..., runs]``, in the order of the tasks' names."""
    if not scores:
        raise SparError("no task to take scores of")
    return [_checked(task, scores[task]) for task in sorted(scores)]


def _checked(task: str, values: ArrayLike) -> np.ndarray:
    """Runs of a task, ``[..., runs]``, sorted so that their order changes no result.

    Raises:
        SparError: there is no run, or a score is not finite.
    """
    runs = np.asarray(values, dtype=float)
    if runs.ndim == 0 or runs.shape[-1] == 0:
        raise SparError(f"task '{task}' has no run")
    if not np.isfinite(runs).all():
        raise SparError(f"task '{task}' has a score that is not a finite number")
    return np.sort(runs, axis=-1)


def _task_means(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the runs of each task, ``[tasks, ...]``."""
    return np.stack([runs.mean(axis=-1) for runs in arrays])
