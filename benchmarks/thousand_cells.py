"""How long a thousand cells take on how many cores: a simulation of the schedule, from stage times measured here.

    python benchmarks/thousand_cells.py               # stage times of the study in params.yaml, from artifacts/seconds
    python benchmarks/thousand_cells.py --scale 150   # the same with 150 times the steps, such as 1M in place of 6000

18 datasets, 5 anchors, one critic, two rules, 10 seeds of one cell each: 900 anchors, 900 residual models, 180 critics,
1800 policies. Each core runs one cell at a time, with one worker; what a cell costs besides its training (Python, DVC,
the remote) is `--overhead`. The schedule is that of `stages.sweep` and `stages.cluster`. Compared is a study in which
nothing is shared: every policy trains an anchor, a residual model and a critic of its own.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/thousand_cells.json"
DATASETS, ANCHORS, RULES, SEEDS = 18, 5, ("spar_mlp", "spar_proj"), 10
CORES = (1, 2, 8, 32, 128, 512)
# Stages whose time grows with the number of optimiser steps.
TRAINED = ("fit_bc", "fit_residual", "fit_critic", "self_imitation")


def stage_seconds(root: Path) -> dict[str, float]:
    """Median core-seconds of a seed, by stage, of what ran in the project last; `download` of a dataset."""
    found: dict[str, list[float]] = {}
    for path in sorted((root / "artifacts/seconds").rglob("*.json")):
        stage = path.relative_to(root / "artifacts/seconds").parts[0]
        told = json.loads(path.read_text())
        seeds = max(1, told["seeds"])
        busy = min(told["workers"], seeds) if stage != "download" else told["workers"]
        found.setdefault(stage, []).append(told["seconds"] * busy / seeds)
    return {stage: statistics.median(values) for stage, values in found.items()}


def study() -> dict[str, tuple[str, ...]]:
    """The cells, each with those that it depends on."""
    graph: dict[str, tuple[str, ...]] = {}
    for d in range(DATASETS):
        graph[f"download@{d}"] = ()
        for s in range(SEEDS):
            graph[f"fit_critic@{d}-{s}"] = (f"download@{d}",)
            for a in range(ANCHORS):
                at = f"{d}-{a}-{s}"
                graph[f"fit_bc@{at}"] = (f"download@{d}",)
                graph[f"fit_residual@{at}"] = (f"fit_bc@{at}",)
                for rule in RULES:
                    needs = (f"fit_bc@{at}", f"fit_residual@{at}", f"fit_critic@{d}-{s}")
                    graph[f"self_imitation@{at}-{rule}"] = needs
                    graph[f"evaluate@{at}-{rule}"] = (f"self_imitation@{at}-{rule}",)
    return graph


def simulate(graph: Mapping[str, Sequence[str]], seconds: Mapping[str, float], cores: int) -> float:
    """Seconds until the last cell ends."""
    from stages.schedule import Schedule

    weights = {name: seconds[name.split("@")[0]] for name in graph}
    schedule = Schedule(graph, weights)
    now, count = 0.0, itertools.count()
    running: list[tuple[float, int, str]] = []
    while not schedule.over():
        while len(running) < cores and (name := schedule.start()):
            heapq.heappush(running, (now + weights[name], next(count), name))
        now, _, name = heapq.heappop(running)
        schedule.finish(name, ok=True)
    return now


def main() -> None:
    """Simulate, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the optimiser steps (default: 1)")
    parser.add_argument("--overhead", type=float, default=5.0, help="seconds a cell besides its stage (default: 5)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/thousand_cells.json")
    args = parser.parse_args()
    measured = stage_seconds(ROOT)
    missing = [stage for stage in ("download", *TRAINED, "evaluate") if stage not in measured]
    if missing:
        sys.exit(f"error: artifacts/seconds holds no {', '.join(missing)}; `make run` measures them")
    seconds = {
        stage: args.overhead + value * (args.scale if stage in TRAINED else 1.0) for stage, value in measured.items()
    }
    graph = study()
    work = sum(seconds[name.split("@")[0]] for name in graph)
    policies = DATASETS * ANCHORS * len(RULES) * SEEDS
    alone = policies * sum(seconds[stage] for stage in (*TRAINED, "evaluate")) + DATASETS * seconds["download"]
    print(f"{len(graph)} cells, {work / 3600:.1f} core-hours; with nothing shared {alone / 3600:.1f}\n")
    print("| cores | hours | cores busy |\n|--:|--:|--:|")
    rows = []
    for cores in CORES:
        took = simulate(graph, seconds, cores)
        rows.append({"cores": cores, "seconds": took, "busy": work / took / cores})
        print(f"| {cores} | {took / 3600:.2f} | {100 * work / took / cores:.0f}% |")
    if args.write:
        told = {"stage_seconds": measured, "scale": args.scale, "overhead": args.overhead}
        totals = {"cells": len(graph), "core_seconds": work, "core_seconds_unshared": alone}
        RESULT.write_text(json.dumps({**told, **totals, "rows": rows}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
