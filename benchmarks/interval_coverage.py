"""How often the intervals of the reports hold the truth, on synthetic scores whose truth is known.

    python benchmarks/interval_coverage.py              # ten minutes on a core; writes results/interval_coverage.json
    python benchmarks/interval_coverage.py --tables     # prints all tables of that file, and fills docs/statistics.md

A nominal 95% interval should hold the true value in 95 of 100 studies. Every candidate method is tried on populations
with a known mean: normal ones, ones as skewed as the returns of this repository's own reports, and ones with a rare
catastrophe. Which method the library uses, and from how many runs on, is decided by what this script writes. Its
result depends on nothing but the reports and fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special, stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import coverage  # noqa: E402
from benchmarks.coverage import CHUNK, LEVEL, TAIL, Draw, Ends, covered  # noqa: E402
from spar_core.evaluation import aggregates  # noqa: E402
from spar_core.evaluation.aggregates import RESAMPLES  # noqa: E402

PAGE = ROOT / "docs/statistics.md"
RESULT = ROOT / "benchmarks/results/interval_coverage.json"
# Name of a statistic, its values, those of the resamples, and how often the resamples drew each run.
Case = tuple[str, np.ndarray, np.ndarray, list[np.ndarray]]
RUNS = (3, 4, 5, 10, 20)
PROFILE_RUNS = (50,)
# Samples of means to one of aggregates: they decide by tenths of a per cent.
MEANS = 4

# Normalised scores of the tasks: true means and standard deviations over runs. One lies near the target of 100, where
# the optimality gap clips; the others spread as those of unlike tasks do.
TASKS = {
    1: (np.array([95.0]), np.array([8.0])),
    3: (np.linspace(40, 110, 3), np.array([8.0, 4, 16])),
    5: (np.linspace(20, 110, 5), np.array([8.0, 4, 16, 6, 10])),
    9: (np.linspace(40, 110, 9), np.array([8.0, 4, 16] * 3)),
}
# How far ours lies above the other rule, in standard deviations of a run; a threshold of the performance profile.
LEADS = (0.8, 2.0)
THRESHOLD = 95.0


# --- intervals of aggregates ---


def aggregate_cases(draw: Draw, tasks: int, runs: int, chunk: int) -> Iterator[Case]:
    """Name, values, resampled values and draws of every statistic, for one chunk of replicates."""
    place, scale = TASKS[tasks]
    rng = np.random.default_rng([tasks, runs, chunk])
    unit, unlike = draw(rng, (CHUNK, tasks, runs)), draw(rng, (CHUNK, tasks, runs))
    # The library draws from sorted runs, so that their order does not matter.
    x = np.sort(place[:, None] + scale[:, None] * unit, axis=2)
    counts = coverage.drawn(tasks, runs)
    scores = {str(task): x[:, task] for task in range(tasks)}
    if runs not in PROFILE_RUNS:
        means = coverage.resampled_means(x, counts)
        yield "mean", aggregates.mean(scores), means.mean(axis=0), counts
        yield "iqm", aggregates.iqm(scores), coverage.resampled_iqm(x, counts), counts
        if tasks > 1:
            yield "median", aggregates.median(scores), np.median(means, axis=0), counts
        gaps = 100 - coverage.resampled_means(np.minimum(x, 100), counts).mean(axis=0)
        yield "optimality_gap", aggregates.optimality_gap(scores), gaps, counts
        ours, other = coverage.drawn(tasks, runs, "ours"), coverage.drawn(tasks, runs, "other")
        for lead in LEADS:
            sides = np.sort(unit + lead, axis=2), np.sort(unlike, axis=2)
            named = [{str(task): side[:, task] for task in range(tasks)} for side in sides]
            value = aggregates.probability_of_improvement(*named)
            again = coverage.resampled_wins(*sides, ours, other)
            yield f"probability_of_improvement, lead {lead}", value, again, ours + other
    above = coverage.resampled_means(x > THRESHOLD, counts).mean(axis=0)
    yield "performance_profile", aggregates.performance_profile(scores, [THRESHOLD])[..., 0], above, counts


def aggregate_truth(draw: Draw, tasks: int) -> dict[str, float]:
    """The statistics of the populations themselves, from very many runs."""
    place, scale = TASKS[tasks]
    rng = np.random.default_rng(tasks)
    unit = draw(rng, (tasks, 400_000))
    x = place[:, None] + scale[:, None] * unit
    scores = {str(task): row for task, row in enumerate(x)}
    known = {name: float(statistic(scores)) for name, statistic in aggregates.AGGREGATES.items()}
    known |= {"mean": float(place.mean()), "median": float(np.median(place))}
    known["performance_profile"] = float((x > THRESHOLD).mean())
    a, b = unit[0], rng.permutation(draw(rng, 400_000))
    return known | {f"probability_of_improvement, lead {lead}": float((a + lead > b).mean()) for lead in LEADS}


def aggregate_intervals(value: np.ndarray, again: np.ndarray, counts: list[np.ndarray], share: bool) -> dict[str, Ends]:
    """Ends of each method's interval of a statistic ``[replicates]`` with resamples ``[replicates, resamples]``."""
    n = counts[0].shape[1]
    grow = np.sqrt(n / (n - 1))
    tail = float(special.ndtr(-grow * stats.t.ppf(1 - TAIL, n - 1)))
    low, high, least, most = np.quantile(again, [TAIL, 1 - TAIL, tail, 1 - tail], axis=1)
    found = {"percentile": (low, high), "scaled": (value - grow * (value - low), value + grow * (high - value))}
    found |= {"expanded percentile": (least, most)}
    found["Student t"] = aggregates.student_interval(value, again, counts, LEVEL)
    if share:
        found["Student t, log-odds"] = aggregates.student_interval(value, again, counts, LEVEL, share=True)
    return found


# --- coverage ---


def aggregate_coverage(draw: Draw, tasks: int, runs: int, replicates: int) -> dict[str, dict[str, float]]:
    """By statistic and method, the share of intervals that hold the truth, and of replicates with resamples that vary.

    Where all resamples are the same there is no interval, and nothing to count.
    """
    truth = aggregate_truth(draw, tasks)
    hits: dict[str, dict[str, list[np.ndarray]]] = {}
    for chunk in range(replicates // CHUNK):
        for name, value, again, counts in aggregate_cases(draw, tasks, runs, chunk):
            varies = np.ptp(again, axis=1) > 1e-6
            own = hits.setdefault(name, {"given": []})
            own["given"].append(varies)
            share = name.startswith(("probability", "performance"))
            for method, ends in aggregate_intervals(value, again, counts, share).items():
                own.setdefault(method, []).append(covered(ends, truth[name])[varies])
    return {
        name: {
            method: round(float(np.mean(np.concatenate(hit))), 4) for method, hit in own.items() if sum(map(len, hit))
        }
        for name, own in hits.items()
    }


def measure(replicates: int) -> dict:
    """Everything that the file holds."""
    tables = [pd.read_csv(path) for path in sorted((ROOT / "reports").glob("*/returns.csv"))]
    kinds = {"returns": {}, "falls": {"fell": True}, "gains": {"gains": True}}
    skews = {name: coverage.seed_skewness(tables, **chosen) for name, chosen in kinds.items()}
    drawn = populations(skews)
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "replicates": {"means": MEANS * replicates, "aggregates": replicates},
        "skewness": {name: _rounded(vars(skew)) for name, skew in skews.items()},
        "means": {name: means_of(draw, MEANS * replicates) for name, draw in drawn.items()},
        "aggregates": {name: aggregates_of(drawn[name], replicates) for name in ("normal", "returns")},
    }


def populations(skews: dict[str, coverage.Skew]) -> dict[str, Draw]:
    """What is drawn from, by name."""
    as_returns = coverage.falling_gamma(skews["returns"].population)
    falls = coverage.falling_gamma(skews["falls"].population)
    return {
        "normal": coverage.normal,
        "returns": as_returns,
        "returns, log-normal": coverage.falling_lognormal(skews["returns"].population),
        "returns, strongest skewness": coverage.falling_gamma(skews["returns"].strongest),
        "falls": falls,
        "catastrophe": coverage.catastrophe,
        "difference of normal": coverage.difference(coverage.normal),
        "difference of returns": coverage.difference(as_returns),
        "difference of returns, other half as wide": coverage.difference(as_returns, 0.5),
        "difference of falls": coverage.difference(falls),
        "difference of catastrophe": coverage.difference(coverage.catastrophe),
    }


def means_of(draw: Draw, replicates: int) -> dict:
    """Coverage of means by number of runs and method."""
    return {str(n): coverage.mean_coverage(draw, n, replicates) for n in (2, *RUNS)}


def aggregates_of(draw: Draw, replicates: int) -> dict:
    """Coverage of aggregates by number of tasks, number of runs, statistic and method."""
    every = (*RUNS, *PROFILE_RUNS)
    return {str(t): {str(n): aggregate_coverage(draw, t, n, replicates) for n in every} for t in TASKS}


def _rounded(values: dict) -> dict:
    """Four digits."""
    return {key: None if value is None else round(value, 4) for key, value in values.items()}


# --- tables ---


def tables(found: dict) -> dict[str, str]:
    """The tables of the page by name, in per cent."""
    means, aggregate = found["means"], found["aggregates"]
    head = ["", *means["normal"]]
    methods = {
        f"methods:{name}": markdown(head, [[m, *_row(means[name], m)] for m in means[name][str(RUNS[0])]])
        for name in ("normal", "returns", "falls")
    }
    chosen, variants = [], []
    for statistic in aggregate["returns"]["9"][str(RUNS[0])]:
        for tasks in TASKS:
            both = [aggregate[name][str(tasks)] for name in ("returns", "normal")]
            if statistic not in both[0][str(RUNS[0])]:
                continue
            for method in ("percentile", "scaled", "expanded percentile", "Student t", "Student t, log-odds"):
                cells = [
                    [percent(cell.get(statistic, {}).get(method)) for cell in by_runs.values()] for by_runs in both
                ]
                if all(cell == "-" for cell in cells[0]):
                    continue
                if method == _chosen(statistic):
                    pairs = [" / ".join(pair) if pair != ("-", "-") else "-" for pair in zip(*cells, strict=True)]
                    chosen.append([statistic, str(tasks), *pairs])
                if tasks == 3:
                    variants.append([statistic, method, *cells[0][: len(RUNS)]])
    columns = list(aggregate["returns"]["9"])
    return methods | {
        "means": markdown(head, [[name, *_row(by_runs, "Student t")] for name, by_runs in means.items()]),
        "aggregates": markdown(["", "tasks", *columns], chosen),
        "variants": markdown(["", "", *columns[: len(RUNS)]], variants),
    }


def _chosen(statistic: str) -> str:
    """The method of the library for a statistic."""
    return "Student t, log-odds" if statistic.startswith(("probability", "performance")) else "Student t"


def _row(by_runs: dict[str, dict[str, float]], method: str) -> list[str]:
    """One method at every number of runs."""
    return [percent(cell.get(method)) for cell in by_runs.values()]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float | None) -> str:
    """One digit after the point; nothing was measured: a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def fill(page: str, found: dict) -> str:
    """The page with the table of means between its markers."""
    begin, end = "<!-- coverage:means -->", "<!-- /coverage:means -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{tables(found)['means']}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Measure and write the file; print its tables, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=10_000, help="of aggregates; means take four times as many")
    parser.add_argument("--tables", action="store_true", help="print what the file holds, measure nothing")
    args = parser.parse_args()
    if not args.tables:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(measure(args.replicates), indent=1) + "\n", encoding="utf-8")
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, table in tables(found).items():
        print(f"{name}\n\n{table}\n")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
