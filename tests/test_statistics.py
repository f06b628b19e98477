"""Statistics over seeds, against SciPy's own tests, numbers worked by hand, and the traps peers fell into."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spar_core.errors import SparError
from spar_core.evaluation import statistics
from spar_core.reporting.numbers.trend import added_share, explained_share, fit_line, rank_correlation

returns = st.floats(-1e4, 1e4, allow_nan=False)


def test_seed_means_weigh_each_seed_once():
    means = statistics.seed_means([1, 0, 1, 1], [3.0, 10.0, 6.0, 0.0])
    assert means == {0: 10.0, 1: 3.0}
    assert list(means) == [0, 1]


def test_interval_by_hand():
    # mean 3, s = sqrt(2.5), t(0.975, 4) = 2.776445: half-width 2.776445 * sqrt(2.5 / 5) = 1.963243
    estimate = statistics.mean_interval([1, 2, 3, 4, 5])
    assert estimate.value == 3 and estimate.n == 5
    assert estimate.low == pytest.approx(1.036757, abs=1e-6)
    assert estimate.high == pytest.approx(4.963243, abs=1e-6)


@given(st.lists(st.tuples(returns, returns), min_size=2, max_size=8), st.sampled_from([0.8, 0.95, 0.99]))
def test_paired_difference_is_scipys_paired_t_test(pairs, confidence):
    ours, other = np.array(pairs).T
    estimate = statistics.paired_difference(dict(enumerate(ours)), dict(reversed(list(enumerate(other)))), confidence)
    assert estimate.value == pytest.approx(np.mean(ours - other), abs=1e-6)
    if np.ptp(ours - other) > 1e-3:
        interval = stats.ttest_rel(ours, other).confidence_interval(confidence)
        assert estimate.low == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
        assert estimate.high == pytest.approx(interval.high, rel=1e-6, abs=1e-6)


def test_pairing_is_by_seed_and_refuses_other_seeds():
    assert statistics.paired_difference({3: 5.0, 1: 2.0}, {1: 1.0, 3: 3.0}).value == 1.5
    with pytest.raises(SparError, match=r"unpaired: \[2, 3\]"):
        statistics.paired_difference({1: 0.0, 2: 0.0}, {1: 0.0, 3: 0.0})


def test_one_seed_has_a_mean_and_no_interval():
    estimate = statistics.mean_interval([7.0])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (7.0, None, None, 1)
    assert estimate.direction == 0
    assert statistics.sample_std([7.0]) is None
    assert statistics.pooled_std([7.0], [1.0, 2.0]) is None
    assert statistics.gain_in_pooled_stds([7.0], [1.0]) is None
    with pytest.raises(SparError, match="no seed"):
        statistics.mean_interval([])


def test_equal_seeds_give_a_zero_width_interval_not_nan():
    estimate = statistics.mean_interval([2.0, 2.0, 2.0])
    assert (estimate.low, estimate.high) == (2.0, 2.0)
    assert statistics.gain_in_pooled_stds([3.0, 3.0], [2.0, 2.0]) is None


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(0.1, 50), st.floats(-1e3, 1e3))
def test_an_interval_says_the_same_of_returns_and_of_their_scores(values, scale, shift):
    raw, score = statistics.mean_interval(values), statistics.mean_interval([scale * v + shift for v in values])
    for end in ("value", "low", "high"):
        assert getattr(score, end) == pytest.approx(scale * getattr(raw, end) + shift, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("values", "direction"), [([1, 2, 3, 2], 1), ([-1, -2, -3, -2], -1), ([-9, 9, 1], 0)])
def test_direction(values, direction):
    assert statistics.mean_interval(values).direction == direction


def test_pooled_std_by_hand_and_by_the_two_sample_t_test():
    # s1^2 = 1 (3 values), s2^2 = 4.5 (2 values): sqrt((2 * 1 + 1 * 4.5) / 3)
    assert statistics.pooled_std([1, 2, 3], [0, 3]) == pytest.approx(math.sqrt(6.5 / 3))
    a, b = [10.0, 12.0, 11.0, 15.0], [1.0, 2.0, 4.0, 3.0]
    t = stats.ttest_ind(a, b, equal_var=True).statistic
    assert statistics.gain_in_pooled_stds(a, b) == pytest.approx(t * math.sqrt(1 / 4 + 1 / 4))


def test_normalised_score_of_halfcheetah():
    low, high = -280.178953, 12135.0
    assert statistics.normalised_score(low, low, high) == 0
    assert statistics.normalised_score(high, low, high) == 100
    # CORL's BC on halfcheetah-medium scores about 42: a return of 4934
    assert statistics.normalised_score(4934.0, low, high) == pytest.approx(42.0, abs=0.01)


def test_normalised_spread_is_scaled_and_never_shifted():
    low, high = -280.178953, 12135.0
    assert statistics.normalised_spread(0.0, low, high) == 0
    values = np.array([3000.0, 3500.0, 4100.0])
    of_scores = np.std([statistics.normalised_score(v, low, high) for v in values], ddof=1)
    spread = statistics.normalised_spread(np.std(values, ddof=1), low, high)
    assert spread == pytest.approx(of_scores)
    # The trap: the affine map of a spread is 2.26 points too large here.
    assert statistics.normalised_score(np.std(values, ddof=1), low, high) - spread == pytest.approx(2.2567, abs=1e-3)


# --- lines and correlations over a handful of anchors ---


def test_line_and_band_against_scipy_and_the_textbook():
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=9) * 300, rng.normal(size=9) * 40
    y = 500 + 0.5 * x + noise
    line, known = fit_line(x, y), stats.linregress(x, y)
    assert line is not None
    t = stats.t.ppf(0.975, 7)
    assert line.slope.value == pytest.approx(known.slope) and line.intercept == pytest.approx(known.intercept)
    assert line.slope.high - line.slope.value == pytest.approx(t * known.stderr)
    # At x = 0 the band is the interval of the intercept.
    assert float(line.half_band(np.array(0.0))) == pytest.approx(t * known.intercept_stderr)
    assert explained_share([x], y) == pytest.approx(known.rvalue**2)


def test_crossing_is_where_the_band_leaves_the_identity():
    x = np.array([0.0, 400, 800, 1200, 1600])
    line = fit_line(x, 500 + 0.5 * x + np.array([20.0, -30, 10, 15, -15]))
    assert line is not None
    crossing = line.crossing()
    assert line.tilt == -1 and crossing is not None and crossing.low < crossing.value < crossing.high
    assert crossing.value == pytest.approx(line.intercept / (1 - line.slope.value))
    for end in (crossing.low, crossing.high):
        assert abs(float(line.at(np.array(end))) - end) == pytest.approx(float(line.half_band(np.array(end))))


def test_a_line_that_may_be_parallel_to_the_identity_has_no_bounded_crossing():
    x = np.array([0.0, 400, 800, 1200])
    line = fit_line(x, x + np.array([300.0, -200, 250, -100]))
    assert line is not None and line.tilt == 0
    crossing = line.crossing()
    assert crossing is not None and crossing.low is None and crossing.high is None
    exact = fit_line([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    assert exact is not None and exact.crossing() is None


@pytest.mark.parametrize("x", [[1.0, 2.0], [1.0, 1.0, 1.0]])
def test_no_line_through_two_points_or_one_place(x):
    assert fit_line(x, list(range(len(x)))) is None
    assert rank_correlation(x, list(range(len(x)))) is None


def test_three_points_in_a_row_are_no_certainty():
    """SciPy's t approximation gives p = 0 here; of six orders of three points, two are monotone."""
    found = rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 90.0])
    assert found is not None and found.rho == pytest.approx(1) and found.p == pytest.approx(2 / 6)


def test_rank_correlation_against_scipy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=12), rng.normal(size=12)
    found, known = rank_correlation(x, y), stats.spearmanr(x, y)
    assert found is not None and (found.rho, found.p) == pytest.approx((known.statistic, known.pvalue))
    few = rank_correlation(x[:6], y[:6])
    exact = stats.permutation_test(
        (x[:6],), lambda a: stats.spearmanr(a, y[:6]).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert few is not None and few.p == pytest.approx(exact.pvalue)


def test_added_share_is_the_partial_f_test():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=10), rng.normal(size=10)
    y = first + 0.5 * second + rng.normal(size=10) * 0.3
    added = added_share(first, second, y)
    assert added is not None
    # The F-test of one added column is the squared t-test of its coefficient.
    design = np.column_stack([np.ones(10), first, second])
    beta, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
    error = math.sqrt(rss[0] / 7 * np.linalg.inv(design.T @ design)[2, 2])
    assert added.p == pytest.approx(2 * stats.t.sf(abs(beta[2] / error), 7))
    whole = 1 - rss[0] / ((y - y.mean()) ** 2).sum()
    assert added.share == pytest.approx(whole - stats.pearsonr(first, y).statistic ** 2)
    assert added_share(first[:3], second[:3], y[:3]) is None
    nothing_left = added_share(first, second, 2 * first)
    assert nothing_left is not None and nothing_left.p is None and nothing_left.share == 0
