"""Synthetic returns with a known mean, and every interval of a mean that might be printed for a few of them.

``benchmarks/interval_coverage.py`` measures with it which intervals hold the truth as often as they say. Populations
have mean 0 and, but for the catastrophe, standard deviation 1; the skewed ones are as skewed as the returns that this
repository's reports hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from spar_core.evaluation.aggregates import RESAMPLES, resample

# A population: a generator and a shape to values of that shape.
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Ends = tuple[np.ndarray, np.ndarray]

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
CHUNK = 1000  # samples drawn at a time
# Of the catastrophe: how often a seed meets it, what is left of its return, and the spread of the others, in returns.
CHANCE, LEFT, SPREAD = 0.1, 1 / 3, 0.05


# --- populations ---


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values."""
    return rng.standard_normal(shape)


def falling_gamma(skewness: float) -> Draw:
    """A gamma distribution with its long tail below, of the (negative) skewness: most runs good, some far below."""
    form = 4 / skewness**2
    return lambda rng, shape: (form - rng.standard_gamma(form, shape)) / math.sqrt(form)


def falling_lognormal(skewness: float) -> Draw:
    """The same from a log-normal distribution."""
    # The skewness of a log-normal is (w + 2) sqrt(w - 1), where w = exp(sigma^2).
    w = optimize.brentq(lambda w: (w + 2) * math.sqrt(w - 1) + skewness, 1.0, 50.0)
    sigma = math.sqrt(math.log(w))
    scale = math.sqrt(w * (w - 1))
    return lambda rng, shape: (math.sqrt(w) - np.exp(sigma * rng.standard_normal(shape))) / scale


def catastrophe(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns about 1 of which one in ten falls to a third, less their mean."""
    values = 1 + SPREAD * rng.standard_normal(shape)
    return np.where(rng.random(shape) < CHANCE, LEFT * values, values) - (1 - CHANCE * (1 - LEFT))


def difference(draw: Draw, other: float = 1.0) -> Draw:
    """Paired differences: a draw less an independent one of ``other`` times the spread. What both share cancels."""
    return lambda rng, shape: draw(rng, shape) - other * draw(rng, shape)


# --- calibration ---


@dataclass(frozen=True)
class Skew:
    """Skewness of returns over seeds.

    ``sample`` is the mean sample skewness of ``groups`` groups of ``SEEDS`` seeds, ``low`` to ``high`` its 95% interval
    from resampling whole anchors (rules of one anchor share its seeds), None for too few anchors. ``population``
    is the skewness of the gamma distribution whose groups of that size have that sample skewness on average, and
    ``strongest`` that for ``low``.
    """

    groups: int
    anchors: int
    sample: float
    low: float | None
    high: float | None
    population: float
    strongest: float | None


SEEDS = 4
# To resample fewer would say nothing.
FEWEST_ANCHORS = 10
CELL = ["dataset", "anchor", "critic", "improvement"]


def seed_skewness(tables: Sequence[pd.DataFrame], fell: bool = False, gains: bool = False) -> Skew:
    """Measure the skewness of returns over seeds.

    The skewness of four values cannot exceed 1.155 in size, so that it understates that of the population by far: hence
    the search for the population that gives the same.

    Args:
        tables: of ``returns.csv`` of each report; a cell that several reports share counts once.
        fell: only cells in which an episode of a seed ended before its dataset's longest.
        gains: of the differences from the anchor's returns, seed by seed, in place of the returns.
    """
    rows = pd.concat(tables).drop_duplicates([*CELL, "seed", "return_mean"])
    if gains:
        keys = ["dataset", "anchor", "seed"]
        base = rows[rows["improvement"] == "anchor"].drop_duplicates(keys).set_index(keys)["return_mean"]
        rows = rows[rows["improvement"] != "anchor"].join(base.rename("base"), on=keys)
        rows["return_mean"] -= rows["base"]
    longest = rows.groupby("dataset")["length_mean"].transform("max")
    rows = rows.assign(short=rows["length_mean"] < longest)
    found: dict[tuple[str, str], list[float]] = {}
    for (dataset, anchor, *_), cell in rows.groupby(CELL):
        if len(cell) == SEEDS and (cell["short"].any() or not fell) and np.ptp(cell["return_mean"]) > 0:
            found.setdefault((dataset, anchor), []).append(float(stats.skew(cell["return_mean"])))
    sums, sizes = np.array([(sum(own), len(own)) for own in found.values()]).T
    picks = np.random.default_rng(0).integers(len(sums), size=(10_000, len(sums)))
    low, high = np.quantile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [0.025, 0.975])
    sample = float(sums.sum() / sizes.sum())
    size, central = int(sizes.sum()), population_skewness(sample)
    if len(sums) < FEWEST_ANCHORS:
        return Skew(size, len(sums), sample, None, None, central, None)
    return Skew(size, len(sums), sample, float(low), float(high), central, population_skewness(float(low)))


def population_skewness(sample: float, replicates: int = 200_000) -> float:
    """Skewness of the gamma distribution whose groups of ``SEEDS`` values have the mean sample skewness ``sample``."""

    def missed(size: float) -> float:
        values = falling_gamma(-size)(np.random.default_rng(1), (replicates, SEEDS))
        return float(stats.skew(values, axis=1).mean()) + abs(sample)

    return math.copysign(float(optimize.brentq(missed, 0.01, 6.0, xtol=1e-4)), sample)


# --- intervals of a mean ---


def mean_intervals(x: np.ndarray, resamples: int = RESAMPLES) -> dict[str, Ends]:
    """Ends of each method's interval of the mean, one sample a row.

    Student's t; the percentile bootstrap; percentiles expanded for few values (Hesterberg 2015,
    https://doi.org/10.1080/00031305.2015.1089789); BCa and the bootstrap-t (Efron and Tibshirani 1993, chapters 14 and
    12); the t shifted by the sample skewness (Johnson 1978, https://doi.org/10.1080/01621459.1978.10480051) and Hall's
    monotone cubic (1992, https://doi.org/10.1111/j.2517-6161.1992.tb01872.x), the last two from three values on.

    Args:
        x: ``[samples, n]`` values.
        resamples: number of resamples, the same rows of all samples.

    Returns:
        Method to lower and upper ends ``[samples]``.
    """
    n = x.shape[1]
    mean, std, skew = x.mean(axis=1), x.std(axis=1, ddof=1), stats.skew(x, axis=1)
    error, t = std / np.sqrt(n), stats.t.ppf(1 - TAIL, n - 1)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    means = x @ counts.T
    ordered = np.sort(means, axis=1)
    found = {"Student t": (mean - t * error, mean + t * error)}
    found["percentile"] = quantile(ordered, TAIL), quantile(ordered, 1 - TAIL)
    tail = stats.norm.cdf(-t * np.sqrt(n / (n - 1)))
    found["expanded percentile"] = quantile(ordered, tail), quantile(ordered, 1 - tail)
    close = 1e-9 * std[:, None]
    below = (means < mean[:, None] - close).mean(axis=1) + (np.abs(means - mean[:, None]) <= close).mean(axis=1) / 2
    shift, acceleration = stats.norm.ppf(below), skew / (6 * np.sqrt(n))
    ends = [shift + z for z in stats.norm.ppf([TAIL, 1 - TAIL])]
    tails = [stats.norm.cdf(shift + end / (1 - acceleration * end)) for end in ends]
    found["BCa"] = quantile(ordered, tails[0]), quantile(ordered, tails[1])
    spread = np.sqrt(np.maximum((x**2) @ counts.T - means**2, 0) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A resample of one value drawn n times has no spread: its t is infinite, or 0 where it does not differ.
        ratio = np.where(
            spread > 1e-7 * std[:, None], (means - mean[:, None]) / spread, np.inf * (means - mean[:, None])
        )
    ratio = np.sort(np.nan_to_num(ratio, nan=0.0, posinf=1e12, neginf=-1e12), axis=1)
    found["bootstrap-t"] = mean - quantile(ratio, 1 - TAIL) * error, mean - quantile(ratio, TAIL) * error
    if n > 2:
        unbiased = skew * np.sqrt(n * (n - 1)) / (n - 2)
        moved = mean + unbiased * std / (6 * n)
        found["Johnson t"] = moved - t * error, moved + t * error
        found["Hall"] = mean - _hall(t, unbiased, n) * error, mean - _hall(-t, unbiased, n) * error
    return found


def quantile(ordered: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """``[replicates]`` quantile of each row of sorted values; the share may differ from row to row."""
    size = ordered.shape[1]
    place = np.broadcast_to(np.clip(share, 0, 1) * (size - 1), ordered.shape[:1])
    low = np.minimum(np.floor(place).astype(int), size - 2)
    rows = np.arange(len(ordered))
    return ordered[rows, low] + (place - low) * (ordered[rows, low + 1] - ordered[rows, low])


def _hall(t: float, skew: np.ndarray, n: int) -> np.ndarray:
    """The studentised mean at which Hall's (1992) cubic, which takes the skewness out of it, has the value t."""
    a = np.where(np.abs(skew) < 1e-6, 1e-6, skew) / np.sqrt(n)
    return 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1)


# --- resampled aggregates of many samples at once ---


def drawn(tasks: int, runs: int, side: str = "") -> list[np.ndarray]:
    """``[resamples, runs]`` for each task, how often the library draws each run (values have no part in that)."""
    positions = {str(task): np.arange(runs) for task in range(tasks)}
    return resample(positions, RESAMPLES, 0, side).counts


def resampled_iqm(x: np.ndarray, counts: list[np.ndarray]) -> np.ndarray:
    """``[replicates, resamples]`` interquartile means of ``[replicates, tasks, runs]``.

    A resample of sorted values is how often each was drawn: what lies between the quarters is the running count,
    clipped at both, without sorting anything again.
    """
    flat = x.reshape(len(x), -1)
    size = flat.shape[1]
    cut = int(0.25 * size)
    each = np.ascontiguousarray(np.concatenate(counts, axis=1).T.astype(np.float32))
    result = np.empty((len(x), RESAMPLES), np.float32)
    for row, order in enumerate(np.argsort(flat, axis=1)):
        values = flat[row, order] - flat[row, order[0]]
        running = each[order]
        for position in range(1, size):  # a cumulative sum over the first axis, at several times NumPy's speed
            running[position] += running[position - 1]
        np.clip(running, cut, size - cut, out=running)
        steps = np.append(values[:-1] - values[1:], values[-1]).astype(np.float32)
        result[row] = (steps @ running) / (size - 2 * cut) + flat[row, order[0]]
    return result


def resampled_means(x: np.ndarray, counts: list[np.ndarray]) -> np.ndarray:
    """``[tasks, replicates, resamples]`` means of ``[replicates, tasks, runs]`` within each task."""
    pairs = zip(x.swapaxes(0, 1).astype(np.float32), counts, strict=True)
    return np.stack([values @ count.T.astype(np.float32) for values, count in pairs]) / x.shape[2]


def resampled_wins(a: np.ndarray, b: np.ndarray, ours: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """``[replicates, resamples]`` probabilities of improvement of ``[replicates, tasks, runs]`` of two rules."""
    total = np.zeros((len(a), RESAMPLES), np.float32)
    for task, (left, right) in enumerate(zip(ours, other, strict=True)):
        wins = 0.5 + 0.5 * np.sign(a[:, task, :, None] - b[:, task, None, :]).astype(np.float32)
        picked = np.matmul(left.astype(np.float32), wins)
        total += np.einsum("rbj,bj->rb", picked, right.astype(np.float32)) / (left.shape[1] * right.shape[1])
    return total / len(ours)


# --- coverage ---


def covered(ends: Ends, truth: float) -> np.ndarray:
    """Whether each interval holds the truth."""
    return (ends[0] <= truth) & (truth <= ends[1])


def mean_coverage(draw: Draw, n: int, replicates: int) -> dict[str, float]:
    """Share of intervals of the mean that hold it; the population's mean is 0."""
    hits: dict[str, list[np.ndarray]] = {}
    for chunk in range(replicates // CHUNK):
        x = draw(np.random.default_rng([n, chunk]), (CHUNK, n))
        for method, ends in mean_intervals(x).items():
            hits.setdefault(method, []).append(covered(ends, 0.0))
    return {method: round(float(np.mean(hit)), 4) for method, hit in hits.items()}
