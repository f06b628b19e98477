"""Intervals hold the truth as often as they say: a short simulation of the library's own, and the committed long one.

With ``count`` samples a measured coverage is off by up to three standard errors, ``3 sqrt(0.05 * 0.95 / count)``; that
much beyond 93 to 97% is allowed here. The long simulation (``benchmarks/interval_coverage.py``) is what decides.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import coverage
from spar_core.evaluation import aggregates
from spar_core.evaluation.aggregates import (
    AGGREGATES,
    SHOWN,
    aggregate_interval,
    improvement_interval,
    interval_is_shown,
)
from spar_core.evaluation.statistics import mean_interval, paired_difference
from tests.fakes import ROOT

_spec = importlib.util.spec_from_file_location("interval_coverage", ROOT / "benchmarks/interval_coverage.py")
assert _spec and _spec.loader
benchmark = importlib.util.module_from_spec(_spec)
sys.modules["interval_coverage"] = benchmark
_spec.loader.exec_module(benchmark)

LOW, HIGH = 0.93, 0.97
RUNS = (3, 4, 5, 10, 20)


@pytest.fixture(scope="module")
def found() -> dict:
    return json.loads(benchmark.RESULT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def as_returns(found):
    return coverage.falling_gamma(found["skewness"]["returns"]["population"])


def holds(estimates, truth: float) -> float | None:
    """Share of estimates whose interval holds the truth; None where none has an interval."""
    given = [e for e in estimates if e.low is not None]
    return sum(e.low <= truth <= e.high for e in given) / len(given) if given else None


def assert_covers(share: float | None, count: int) -> None:
    if share is not None:
        error = 3 * math.sqrt(0.05 * 0.95 / count)
        assert LOW - error <= share <= HIGH + error


# --- the library's intervals, on few samples ---


@pytest.mark.parametrize("n", RUNS)
def test_the_interval_of_a_mean_covers(as_returns, n):
    for draw in (coverage.normal, as_returns):
        samples = draw(np.random.default_rng(n), (2000, n))
        share = holds([mean_interval(values) for values in samples], 0.0)
        assert share is not None
        assert_covers(share, 2000)


@pytest.mark.parametrize("n", RUNS)
def test_the_interval_of_a_paired_difference_covers(as_returns, n):
    rng = np.random.default_rng(n)
    shared = 5 * coverage.normal(rng, (2000, n))
    ours, other = shared + as_returns(rng, (2000, n)), shared + 0.5 * as_returns(rng, (2000, n))
    pairs = [paired_difference(dict(enumerate(a)), dict(enumerate(b))) for a, b in zip(ours, other, strict=True)]
    share = holds(pairs, 0.0)
    assert share is not None
    assert_covers(share, 2000)


@pytest.mark.parametrize("tasks", [1, 3, 9])
@pytest.mark.parametrize("n", RUNS)
def test_the_interval_of_an_aggregate_covers_or_is_not_given(as_returns, n, tasks):
    count, resamples = (200 if n * tasks < 100 else 80), 500
    shown = {name for name in [*AGGREGATES, "probability_of_improvement"] if interval_is_shown(name, n, tasks)}
    place, scale = benchmark.TASKS[tasks]
    truth = benchmark.aggregate_truth(as_returns, tasks)
    rng = np.random.default_rng([n, tasks])
    unit, unlike = (as_returns(rng, (count, tasks, n)) for _ in range(2))
    for name, statistic in AGGREGATES.items():
        scores = [named(place[:, None] + scale[:, None] * row) for row in unit]
        share = holds([aggregate_interval(one, statistic, resamples=resamples) for one in scores], truth[name])
        assert (share is not None) == (name in shown)
        assert_covers(share, count)
    lead = benchmark.LEADS[0]
    sides = [(named(a + lead), named(b)) for a, b in zip(unit, unlike, strict=True)]
    share = holds(
        [improvement_interval(*pair, resamples=resamples) for pair in sides],
        truth[f"probability_of_improvement, lead {lead}"],
    )
    assert (share is not None) == ("probability_of_improvement" in shown)
    assert_covers(share, count)


def named(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {str(task): row for task, row in enumerate(rows)}


def test_the_percentile_bootstrap_would_not_cover():
    shares = coverage.mean_coverage(coverage.normal, 3, 10_000)
    assert shares["percentile"] == pytest.approx(0.74, abs=0.02)
    assert shares["BCa"] < 0.75 and shares["Student t"] == pytest.approx(0.95, abs=0.01)


# --- the simulation itself ---


@pytest.mark.parametrize(("tasks", "n"), [(1, 5), (3, 6), (9, 20)])
def test_the_simulated_interval_is_the_one_that_the_library_gives(as_returns, tasks, n):
    place, scale = benchmark.TASKS[tasks]
    rng = np.random.default_rng(3)
    x, y = (np.sort(place[:, None] + scale[:, None] * as_returns(rng, (2, tasks, n)), axis=2) for _ in range(2))
    counts = coverage.drawn(tasks, n)
    means = coverage.resampled_means(x, counts)
    simulated = {
        "mean": means.mean(axis=0),
        "iqm": coverage.resampled_iqm(x, counts),
        "median": np.median(means, axis=0),
        "optimality_gap": 100 - coverage.resampled_means(np.minimum(x, 100), counts).mean(axis=0),
    }
    for name, again in simulated.items():
        for row, own in enumerate(x):
            drawn = AGGREGATES[name](aggregates.resample(named(own), aggregates.RESAMPLES, 0).values)
            assert again[row] == pytest.approx(drawn, abs=1e-3), name
    sides = coverage.drawn(tasks, n, "ours"), coverage.drawn(tasks, n, "other")
    wins = coverage.resampled_wins(x, y, *sides)
    for row, pair in enumerate(zip(x, y, strict=True)):
        resamples = [
            aggregates.resample(named(own), aggregates.RESAMPLES, 0, side).values
            for own, side in zip(pair, ("ours", "other"), strict=True)
        ]
        assert wins[row] == pytest.approx(aggregates.probability_of_improvement(*resamples), abs=1e-5)


def test_candidate_intervals_against_scipy():
    x = coverage.falling_gamma(-1.0)(np.random.default_rng(2), (1, 10))
    found = coverage.mean_intervals(x, resamples=100_000)
    known = {"Student t": stats.ttest_1samp(x[0], 0).confidence_interval()}
    for method, name in {"percentile": "percentile", "BCa": "BCa"}.items():
        drawn = stats.bootstrap((x[0],), np.mean, n_resamples=100_000, method=name, rng=np.random.default_rng(1))
        known[method] = drawn.confidence_interval
    for method, interval in known.items():
        assert (found[method][0][0], found[method][1][0]) == pytest.approx(tuple(interval), abs=0.02), method
    # Without skewness the corrected methods are Student's t.
    even = np.array([[-2.0, -1, 0, 1, 2]])
    for method in ("Johnson t", "Hall"):
        plain, corrected = (np.ravel(coverage.mean_intervals(even)[name]) for name in ("Student t", method))
        assert corrected == pytest.approx(plain, rel=1e-4)


def test_quantiles_are_those_of_numpy():
    x = np.sort(np.random.default_rng(0).normal(size=(4, 50)), axis=1)
    for share in (0.0, 0.025, 0.5, 1.0):
        assert coverage.quantile(x, share) == pytest.approx(np.quantile(x, share, axis=1))


@pytest.mark.parametrize("skewness", [-0.4, -1.0, -2.0])
def test_populations_have_mean_0_spread_1_and_their_skewness(skewness):
    for family in (coverage.falling_gamma, coverage.falling_lognormal):
        values = family(skewness)(np.random.default_rng(0), (2_000_000,))
        assert values.mean() == pytest.approx(0, abs=0.005) and values.std() == pytest.approx(1, abs=0.01)
        assert stats.skew(values) == pytest.approx(skewness, abs=0.1)
    values = coverage.catastrophe(np.random.default_rng(0), (2_000_000,))
    assert values.mean() == pytest.approx(0, abs=0.001)


def test_calibration_finds_the_population_that_groups_came_from():
    groups = coverage.falling_gamma(-1.2)(np.random.default_rng(5), (200_000, coverage.SEEDS))
    sample = float(stats.skew(groups, axis=1).mean())
    assert abs(sample) < 0.3  # how much four values understate it
    assert coverage.population_skewness(sample) == pytest.approx(-1.2, abs=0.05)


def test_a_cell_of_several_reports_counts_once_and_other_sizes_not_at_all():
    anchor, rule = [4.0, 3, 5, 0], [5.0, 4, 3, 5]
    rows = [("d", "a", "c", "anchor", seed, value, 9.0) for seed, value in enumerate(anchor)]
    rows += [("d", "a", "c", "rule", seed, value, 9.0) for seed, value in enumerate(rule)]
    rows += [("d", "b", "c", "anchor", seed, 7.0 * seed, 8.0) for seed in range(2)]
    table = pd.DataFrame(rows, columns=[*coverage.CELL, "seed", "return_mean", "length_mean"])
    skew = coverage.seed_skewness([table, table[table["improvement"] == "anchor"]])
    assert (skew.groups, skew.anchors, skew.low, skew.high, skew.strongest) == (2, 1, None, None, None)
    assert skew.sample == pytest.approx((stats.skew(anchor) + stats.skew(rule)) / 2)
    gain = coverage.seed_skewness([table.assign(return_mean=-table["return_mean"])], gains=True)
    assert gain.groups == 1 and gain.sample == pytest.approx(-stats.skew(np.array(rule) - anchor))


# --- the committed simulation ---


def test_the_page_shows_the_means_of_the_committed_file(found):
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.fill(page, found) == page, "run `python benchmarks/interval_coverage.py --tables`"


def test_the_page_says_from_how_many_runs_and_tasks_on_an_interval_is_given():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    for name, (runs, tasks) in SHOWN.items():
        row = {"iqm": "interquartile mean (IQM)"}.get(name, name.replace("_", " "))
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row} | ")]
        if name != "mean":
            assert line.endswith(f"| {runs}, {tasks} |")


def test_every_table_of_the_committed_file_can_be_printed(found):
    tables = benchmark.tables(found)
    methods = {f"methods:{name}" for name in ("normal", "returns", "falls")}
    assert tables.keys() == methods | {"means", "aggregates", "variants"}
    assert all(table.count("\n") > 5 and table.startswith("| ") for table in tables.values())


def test_the_reports_are_as_skewed_as_those_it_was_calibrated_on(found):
    tables = [pd.read_csv(path) for path in sorted((ROOT / "reports").glob("*/returns.csv"))]
    known, now = found["skewness"]["returns"], coverage.seed_skewness(tables)
    assert known["low"] <= now.sample <= known["high"], (
        "the reports changed: run `python benchmarks/interval_coverage.py`"
    )


def test_students_t_was_shown_to_cover_means_and_differences(found):
    for population in ("returns", "returns, log-normal", "difference of returns", "difference of normal", "normal"):
        for n in map(str, RUNS):
            assert LOW <= found["means"][population][n]["Student t"] <= HIGH, (population, n)


def test_every_interval_of_an_aggregate_that_is_given_was_shown_to_cover(found):
    checked = set()
    for population in ("returns", "normal"):
        for tasks, by_runs in found["aggregates"][population].items():
            for runs, by_statistic in by_runs.items():
                for case, shares in by_statistic.items():
                    name = case.partition(",")[0]
                    if interval_is_shown(name, int(runs), int(tasks)):
                        checked.add(name)
                        share = shares[benchmark._chosen(case)]
                        assert LOW <= share <= HIGH, (population, tasks, runs, case)
    assert checked == set(SHOWN)


def test_the_hard_case_is_shown_to_fail(found):
    for n in map(str, RUNS):
        assert max(found["means"]["catastrophe"][n][m] for m in ("Student t", "BCa", "percentile")) < LOW
