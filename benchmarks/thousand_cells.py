"""How long a thousand cells take on how many cores: a simulation of the schedule, from stage times measured here.

    python -m benchmarks.thousand_cells               # stage times of the study in params.yaml, after `make run`
    python -m benchmarks.thousand_cells --project X   # of another clone in which it ran

18 datasets, 5 anchors, one critic, two rules, 10 seeds of one cell each: 900 anchors, 900 residual models, 180 critics,
1800 policies. Each core runs one cell at a time, with one worker; what a cell costs besides its training (Python, DVC,
the remote) is `--overhead`. The schedule is that of `stages.parallel`. Compared is a study in which
nothing is shared: every policy trains an anchor, a residual model and a critic of its own. Simulated are the budgets
of the study that was measured, and some 150 times as many optimiser steps (1M in place of 6000). Writes
benchmarks/results/thousand_cells.json.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, module, write
from benchmarks.scratch import clone
from stages.parallel.schedule import Schedule

DATASETS, ANCHORS, RULES, SEEDS = 18, 5, ("spar_mlp", "spar_proj"), 10
CORES = (1, 2, 8, 32, 128, 512)
SCALES = (1.0, 150.0)
BY_RULE = ("self_imitation", "evaluate")
# Stages whose time grows with the number of optimiser steps.
TRAINED = ("fit_bc", "fit_residual", "fit_critic", "self_imitation")


def stage_seconds(root: Path) -> dict[str, float]:
    """Median core-seconds of a seed, by stage, of what ran in the project last; of policies, only RULES."""
    found: dict[str, list[float]] = {}
    for path in sorted((root / "artifacts/seconds").rglob("*.json")):
        below = path.relative_to(root / "artifacts/seconds").parts
        if below[0] in BY_RULE and below[-2] not in RULES:
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        busy = min(told["workers"], told["seeds"])
        found.setdefault(below[0], []).append(told["seconds"] * busy / told["seeds"])
    return {stage: statistics.median(values) for stage, values in found.items()}


def download_seconds(dataset: str = "builtin/halfcheetah-replay-v0") -> float:
    """Core-seconds of making a built-in dataset, in a clone; what a network adds is not known here."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        environment = clone(folder)
        begun = time.perf_counter()
        command = module("stages.download", "--dataset", dataset)
        subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - begun


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


def scaled(measured: Mapping[str, float], scale: float, overhead: float) -> dict[str, Any]:
    """The whole study at ``scale`` times the optimiser steps: core-seconds of each stage, and the schedule's length."""
    seconds = {stage: overhead + value * (scale if stage in TRAINED else 1.0) for stage, value in measured.items()}
    graph = study()
    by_stage: dict[str, float] = {}
    for name in graph:
        stage = name.split("@")[0]
        by_stage[stage] = by_stage.get(stage, 0.0) + seconds[stage]
    work = sum(by_stage.values())
    policies = DATASETS * ANCHORS * len(RULES) * SEEDS
    alone = policies * sum(seconds[stage] for stage in (*TRAINED, "evaluate")) + DATASETS * seconds["download"]
    rows = []
    for cores in CORES:
        took = simulate(graph, seconds, cores)
        rows.append({"cores": cores, "seconds": took, "busy": work / took / cores})
    return {
        "scale": scale,
        "cells": len(graph),
        "core_seconds": work,
        "core_seconds_unshared": alone,
        "by_stage": by_stage,
        # What is left with a core for every cell; no schedule is shorter.
        "longest_chain": simulate(graph, seconds, len(graph)),
        "rows": rows,
    }


def main() -> None:
    """Simulate, print the tables, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=ROOT, help="a clone in which `make run` ran (default: this)")
    parser.add_argument("--overhead", type=float, default=5.0, help="seconds a cell besides its stage (default: 5)")
    args = parser.parse_args()
    measured = stage_seconds(args.project)
    missing = [stage for stage in (*TRAINED, "evaluate") if stage not in measured]
    if missing:
        sys.exit(f"error: artifacts/seconds holds no {', '.join(missing)}; `make run` measures them")
    measured = {"download": download_seconds(), **{stage: measured[stage] for stage in (*TRAINED, "evaluate")}}
    found = [scaled(measured, scale, args.overhead) for scale in SCALES]
    for told in found:
        hours, alone = told["core_seconds"] / 3600, told["core_seconds_unshared"] / 3600
        print(f"{told['scale']:g} times the steps: {told['cells']} cells, {hours:.1f} core-hours; unshared {alone:.1f}")
        print("\n| cores | hours | cores busy |\n|--:|--:|--:|")
        for row in told["rows"]:
            print(f"| {row['cores']} | {row['seconds'] / 3600:.2f} | {100 * row['busy']:.0f}% |")
        print()
    write("thousand_cells", {"stage_seconds": measured, "overhead": args.overhead, "studies": found})


if __name__ == "__main__":
    main()
