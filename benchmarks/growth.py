"""How cost grows with each size of the problem, and the exponent of it.

    python -m benchmarks.growth            # about ten minutes
    python -m benchmarks.growth --quick    # one round, and nothing is written

Each size is swept alone, the others at their defaults; one thread. Sweeps are run several times in turn, so that a
machine that slows down does so for all points, and medians are kept. The exponent is the slope of the logarithms, with
its 95% interval (`scipy.stats.linregress`), and the slope between the two largest points: what a further step costs.
Writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.common import write
from benchmarks.workloads import WARM, jobs, made_data, timed
from spar_core.training.memory import keep_freed_memory

# Updates of a point, and the steps of the dataset where they are not what is swept.
UPDATES, DATA = 300, 100_000
POINTS: Mapping[str, Sequence[int]] = {
    "steps": (500, 1000, 2000, 4000),
    "batch": (64, 128, 256, 512, 1024),
    "width": (64, 128, 256, 512, 1024),
    "seeds": (1, 2, 4, 8, 16),
    "candidates": (4, 8, 16, 32, 64),
    "states": (5000, 10_000, 20_000, 40_000),
    "dataset": (10_000, 100_000, 1_000_000),
}
MEANING = {
    "steps": "optimiser steps of `fit_bc`: seconds of the loop",
    "batch": "steps in a minibatch of `fit_critic`: seconds of an update",
    "width": "units in a hidden layer of `fit_critic`: seconds of an update",
    "seeds": "seeds in one process of `fit_critic`: seconds of an update of all",
    "candidates": "K of `spar_mlp`: seconds of a refresh",
    "states": "states of `spar_mlp`: seconds of a refresh",
    "dataset": "steps in the dataset of `fit_critic`: seconds of an update",
}


def point(what: str, size: int) -> Callable[[], float]:
    """A function that measures one point."""
    settings: dict[str, Any] = {"states": 10_000}
    if what == "batch":
        settings["batch_size"] = size
    elif what == "width":
        settings["hidden"] = (size, size)
    elif what in ("candidates", "states"):
        settings[what] = size
    seeds = list(range(size if what == "seeds" else 1))
    steps = size if what == "steps" else WARM + UPDATES
    data = made_data(max(size, 50_000) if what == "states" else size if what == "dataset" else DATA)

    def measure() -> float:
        found = jobs(steps, data, seeds, **settings)
        if what == "steps":
            return timed(found["fit_bc"], seeds).whole
        if what in ("candidates", "states"):
            return timed(found["spar_mlp"], seeds).first
        return timed(found["fit_critic"], seeds).update

    return measure


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """Slope of log seconds over log size with its 95% interval, and the slope between the two largest sizes."""
    x, y = np.log(sizes), np.log(seconds)
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr)
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return {"exponent": float(fit.slope), "low": fit.slope - half, "high": fit.slope + half, "last": float(last)}


def main() -> None:
    """Sweep, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and nothing is written")
    parser.add_argument("--only", nargs="*", choices=list(POINTS), default=list(POINTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rounds = 1 if args.quick else 3
    sweeps = []
    print("| what grows | seconds | exponent [95%] | of the last step |\n|---|---|--:|--:|")
    for what in args.only:
        sizes = POINTS[what]
        points = [point(what, size) for size in sizes]
        turns = [[measure() for measure in points] for _ in range(rounds)]
        seconds = [statistics.median(column) for column in zip(*turns, strict=True)]
        fit = exponent(sizes, seconds)
        sweeps.append({"what": what, "meaning": MEANING[what], "sizes": list(sizes), "seconds": seconds, **fit})
        told = ", ".join(f"{size}: {value:.4g}" for size, value in zip(sizes, seconds, strict=True))
        slope = f"{fit['exponent']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
        print(f"| {MEANING[what]} | {told} | {slope} | {fit['last']:.2f} |", flush=True)
    if not args.quick and args.only == list(POINTS):
        write("growth", {"rounds": rounds, "updates": UPDATES, "sweeps": sweeps})


if __name__ == "__main__":
    main()
