"""Aggregates of scores against rliable's own, numbers worked by hand, and properties any of them must have.

Of rliable 1.2.0 only ``rliable.metrics`` can be used here: ``rliable.library``, which has its bootstrap and profiles,
needs a version of arch that does not import beside pandas 3. Intervals are checked against Welch's t, which they become
for a mean, and by how often they hold the truth (``tests/test_interval_coverage.py``).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics
from scipy import stats

from spar_core.errors import SparError
from spar_core.evaluation import aggregates
from spar_core.evaluation.aggregates import AGGREGATES, SHOWN, aggregate_interval, improvement_interval, profile_band
from spar_core.evaluation.statistics import mean_interval

# Whole numbers, so that ties are common.
matrices = st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(-20, 150).map(float))
)


def as_scores(matrix: np.ndarray) -> dict[str, list[float]]:
    """Of a matrix ``[runs, tasks]`` as rliable has it."""
    return {f"task {i}": column.tolist() for i, column in enumerate(matrix.T)}


def skewed(runs: int, tasks: int, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return as_scores(np.linspace(40, 90, tasks) - 6 * rng.gamma(4, size=(runs, tasks)))


# --- values ---


@settings(deadline=None)
@given(matrices)
def test_aggregates_are_those_of_rliable(matrix):
    scores = as_scores(matrix)
    assert aggregates.mean(scores) == pytest.approx(metrics.aggregate_mean(matrix))
    assert aggregates.iqm(scores) == pytest.approx(metrics.aggregate_iqm(matrix))
    assert aggregates.median(scores) == pytest.approx(metrics.aggregate_median(matrix))
    assert aggregates.optimality_gap(scores) == pytest.approx(metrics.aggregate_optimality_gap(matrix, 100))
    assert aggregates.optimality_gap(scores, 50) == pytest.approx(metrics.aggregate_optimality_gap(matrix, 50))


@settings(deadline=None)
@given(matrices, st.integers(1, 6), st.integers(0, 99))
def test_probability_of_improvement_is_that_of_rliable(matrix, runs, seed):
    other = np.random.default_rng(seed).integers(-20, 150, size=(runs, matrix.shape[1])).astype(float)
    known = metrics.probability_of_improvement(matrix, other)
    assert aggregates.probability_of_improvement(as_scores(matrix), as_scores(other)) == pytest.approx(known)


def test_aggregates_by_hand():
    scores = {"a": [0, 10, 20, 130], "b": [50, 60], "c": [100.0]}
    assert aggregates.mean(scores) == pytest.approx((40 + 55 + 100) / 3)
    # Seven runs in a row: 0 10 20 50 60 100 130; int(7 / 4) = 1 goes at either end.
    assert aggregates.iqm(scores) == pytest.approx((10 + 20 + 50 + 60 + 100) / 5)
    assert aggregates.median(scores) == 55
    # Of the target: 130 counts as 100, which makes task a miss by 67.5, b by 45 and c by 0.
    assert aggregates.optimality_gap(scores) == pytest.approx((67.5 + 45 + 0) / 3)
    assert aggregates.performance_profile(scores, [-1, 10, 55, 200]).tolist() == pytest.approx([1, 5 / 6, 7 / 12, 0])
    assert list(AGGREGATES) == ["mean", "iqm", "median", "optimality_gap"]


def test_ties_count_half_and_each_task_once():
    ours, other = {"a": [1, 2], "b": [5.0]}, {"a": [1, 1, 3], "b": [9.0]}
    # Task a: 1 ties twice and loses once, 2 wins twice and loses once: (0.5 + 0.5 + 1 + 1) / 6.
    assert aggregates.probability_of_improvement(ours, other) == pytest.approx((3 / 6 + 0) / 2)
    assert aggregates.probability_of_improvement(ours, ours) == 0.5


@settings(deadline=None)
@given(matrices)
def test_a_rule_and_its_rival_share_the_probability(matrix):
    ours, other = as_scores(matrix), as_scores(matrix[::-1] ** 2 / 100)
    forth, back = (aggregates.probability_of_improvement(*pair) for pair in [(ours, other), (other, ours)])
    assert forth + back == pytest.approx(1)


def test_one_run_of_one_task_is_its_own_aggregate():
    scores = {"only": [70.0]}
    assert [function(scores) for function in AGGREGATES.values()] == [70, 70, 70, 30]
    for estimate in [aggregate_interval(scores, f) for f in AGGREGATES.values()] + profile_band(scores, [50]):
        assert (estimate.low, estimate.high, estimate.n) == (None, None, 1)


def test_leading_axes_are_kept():
    rng = np.random.default_rng(1)
    ours, other = ({"a": rng.normal(size=(5, 4)), "b": rng.normal(size=(5, 6))} for _ in range(2))
    rows = [({t: v[i] for t, v in ours.items()}, {t: v[i] for t, v in other.items()}) for i in range(5)]
    for function in AGGREGATES.values():
        assert function(ours) == pytest.approx([function(row) for row, _ in rows])
    together = aggregates.probability_of_improvement(ours, other)
    assert together == pytest.approx([aggregates.probability_of_improvement(*row) for row in rows])
    profiles = aggregates.performance_profile(ours, [-1, 0, 1])
    assert profiles == pytest.approx(np.array([aggregates.performance_profile(row, [-1, 0, 1]) for row, _ in rows]))


def test_what_cannot_be_aggregated_is_refused():
    for function in AGGREGATES.values():
        with pytest.raises(SparError, match="no task"):
            function({})
        with pytest.raises(SparError, match="'b' has no run"):
            function({"a": [1.0], "b": []})
        with pytest.raises(SparError, match="not a finite number"):
            function({"a": [1.0, math.nan]})
    for function in (aggregates.probability_of_improvement, improvement_interval):
        with pytest.raises(SparError, match=r"only on one: \['a', 'b'\]"):
            function({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(SparError, match="no task"):
        aggregate_interval({}, aggregates.mean)


# --- intervals ---


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_mean_is_students_t_and_over_tasks_welchs(confidence):
    scores = skewed(4, 1)
    ours, known = (f(x, confidence=confidence) for f, x in [(of_mean, scores), (mean_interval, scores["task 0"])])
    assert (ours.value, ours.low, ours.high) == pytest.approx((known.value, known.low, known.high), rel=1e-8)
    # Unequal spreads and numbers of runs: the mean of a and -b is half their difference.
    rng = np.random.default_rng(4)
    a, b = rng.normal(50, 3, size=5), rng.normal(20, 9, size=9)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    two = of_mean({"a": a, "b": -b}, confidence=confidence)
    assert (two.low, two.high) == pytest.approx((welch.low / 2, welch.high / 2), rel=1e-6)
    assert two.n == 5


def of_mean(scores, **options):
    return aggregate_interval(scores, aggregates.mean, **options)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.permutations(["a", "b", "c", "d", "e"]))
def test_the_order_of_runs_and_tasks_changes_no_byte(order, tasks):
    scores = {task: np.random.default_rng(i).normal(60, 9, size=6) for i, task in enumerate("abcde")}
    moved = {task: scores[task][list(order)] for task in tasks}
    for function in (aggregates.mean, aggregates.iqm):
        one, two = (aggregate_interval(s, function, resamples=200) for s in (scores, moved))
        assert one == two


def test_the_interval_depends_on_its_seed_and_on_nothing_global():
    scores = skewed(6, 5)
    first = aggregate_interval(scores, aggregates.iqm)
    state = np.random.get_state()[1].copy()
    np.random.seed(7)
    again = aggregate_interval(scores, aggregates.iqm)
    assert (first.low, first.high) == (again.low, again.high)
    assert (np.random.get_state()[1] != state).any()
    other = aggregate_interval(scores, aggregates.iqm, seed=1)
    assert other.low != first.low and other.low == pytest.approx(first.low, abs=1)


def test_a_wider_confidence_gives_a_wider_interval():
    narrow, wide = (aggregate_interval(skewed(6, 2), aggregates.mean, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_an_interval_is_given_from_the_measured_numbers_of_runs_and_tasks_on():
    for name, (fewest, tasks) in SHOWN.items():
        for runs, width in [(fewest, tasks), (fewest - 1, tasks), (fewest, tasks - 1)]:
            if not width:
                continue
            if name == "probability_of_improvement":
                estimate = improvement_interval(skewed(runs, width), skewed(fewest + 5, width, seed=1))
                assert estimate.low is None or 0 < estimate.low < estimate.value < estimate.high < 1
            else:
                estimate = aggregate_interval(skewed(runs, width), AGGREGATES[name])
            assert (estimate.low is not None) == ((runs, width) == (fewest, tasks)), name
            assert estimate.n == runs and math.isfinite(estimate.value)


def test_the_task_with_the_fewest_runs_decides():
    scores = skewed(12, 5) | {"short": [50.0, 60.0]}
    assert aggregate_interval(scores, aggregates.mean).low is None
    assert aggregate_interval(scores, aggregates.mean).n == 2


def test_a_statistic_that_was_not_measured_has_no_interval():
    for statistic in (aggregates.optimality_gap, lambda scores: np.max(scores["task 0"], axis=-1)):
        estimate = aggregate_interval(skewed(50, 3), statistic)
        assert (estimate.low, estimate.high, estimate.n) == (None, None, 50)


@pytest.mark.parametrize("value", [0.1, 100.0, 0.0])
def test_runs_that_do_not_differ_have_no_interval(value):
    scores = {"a": [value] * 20, "b": [value + 1] * 20}
    for function in (aggregates.mean, aggregates.median, aggregates.optimality_gap):
        assert aggregate_interval(scores, function).low is None
    assert improvement_interval({"a": [2.0] * 20}, {"a": [1.0, *[0.0] * 19]}) == aggregates.Estimate(
        1.0, None, None, 20
    )


def test_one_task_without_spread_does_not_hide_that_of_another():
    estimate = aggregate_interval({"a": [1.0] * 6, "b": [1.0, 2, 3, 4, 5, 6]}, aggregates.mean)
    known = mean_interval([1.0, 2, 3, 4, 5, 6])
    assert estimate.high - estimate.low == pytest.approx((known.high - known.low) / 2, rel=1e-3)


def test_the_profile_has_a_value_at_every_threshold_and_no_band_that_was_not_shown_to_cover():
    thresholds = [0.0, 40, 60, 200]
    for runs in (4, 20):
        scores = skewed(runs, 3)
        band = profile_band(scores, thresholds)
        assert [point.value for point in band] == aggregates.performance_profile(scores, thresholds).tolist()
        assert all(point.low is None and point.high is None and point.n == runs for point in band)
