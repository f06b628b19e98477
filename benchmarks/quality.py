"""Return against wall time: SPAR with and without the warm start of its critic, and d3rlpy's IQL and TD3+BC.

    python -m benchmarks.quality --peer .venv-d3rlpy/bin/python     # about fifty minutes

On the built-in MuJoCo datasets, two seeds, each a process of one thread. SPAR is the stages as a user runs them, one
after the other (`fit_bc`, `fit_residual`, `fit_critic`, `self_imitation` with `spar_mlp`; start-up counted), at shares
of the optimiser steps of params.yaml; `iql_cold` is `iql` without the warm start. d3rlpy's algorithms see the same
training episodes, observations standardised likewise, and are evaluated at several steps of one run; the time of their
start and of reading data is not counted. All policies play the same twenty episodes a seed; that takes no time here.
Returns are of rollouts of built-in data, not of D4RL. Writes benchmarks/results/quality.json after
each dataset.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, module, read, side_by_side, write
from benchmarks.peers import arrays
from benchmarks.scratch import clone, set_params
from spar_core.artifacts import read_json
from spar_core.data.environments.environment import make_env
from spar_core.data.loading import MANIFEST
from spar_core.evaluation.rollouts import EvaluationSettings, blocks, roll_out
from stages.datasets import dataset_of
from stages.layout import Layout

DATASETS = [f"builtin/{name}-replay-v0" for name in ("hopper", "walker2d", "halfcheetah")]
SEEDS = [0, 1]
SHARES = (0.1, 0.3, 1.0)
WAYS = {"iql": "SPAR", "iql_cold": "SPAR, no warm start"}
PEERS = {"iql": "d3rlpy IQL", "td3bc": "d3rlpy TD3+BC"}
# Optimiser steps of d3rlpy, and between two of its policies.
STEPS, EVERY = 15_000, 2500


def run_stages(folder: Path, environment: dict[str, str], stage: str, **cell: str) -> list[float]:
    """One stage for every seed, side by side; seconds of each."""
    axes = [text for name, value in cell.items() for text in (f"--{name}", value)]
    begun, running = time.perf_counter(), []
    for seed in SEEDS:
        command = module(f"stages.{stage}", *axes, "--seeds", seed)
        running.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    took: dict[int, float] = {}
    while len(took) < len(running):
        for i, process in enumerate(running):
            if i not in took and process.poll() is not None:
                took[i] = time.perf_counter() - begun
        time.sleep(0.02)
    for process in running:
        _, said = process.communicate()
        if process.returncode != 0:
            sys.exit(f"error: {stage} failed: {said[-500:]}")
    return [took[i] for i in range(len(running))]


def returns_of(folder: Path, cell: dict[str, str]) -> list[float]:
    """Mean return of each seed of an evaluated cell."""
    found = []
    for seed in SEEDS:
        path = folder.joinpath("artifacts/evaluation", *cell.values(), str(seed), "episodes.csv")
        with path.open(newline="") as file:
            found.append(float(np.mean([float(row["return"]) for row in csv.DictReader(file)])))
    return found


def spar(folder: Path, environment: dict[str, str], dataset: str) -> list[dict[str, Any]]:
    """Points of SPAR, with and without the warm start, and of its anchor."""
    points = []
    for share in SHARES:
        set_params(folder, share, params={"critics": {"iql_cold": {"like": "iql", "warm_start_steps": 0}}})
        cloned = run_stages(folder, environment, "fit_bc", dataset=dataset, anchor="mlp")
        fitted = run_stages(folder, environment, "fit_residual", dataset=dataset, anchor="mlp")
        for critic, name in WAYS.items():
            learned = run_stages(folder, environment, "fit_critic", dataset=dataset, critic=critic)
            for rule in ("anchor", "spar_mlp") if critic == "iql" else ("spar_mlp",):
                cell = {"dataset": dataset, "anchor": "mlp", "critic": critic, "improvement": rule}
                improved = run_stages(folder, environment, "self_imitation", **cell)
                run_stages(folder, environment, "evaluate", **cell)
                whole = [sum(parts) for parts in zip(cloned, fitted, learned, improved, strict=True)]
                points.append(
                    {
                        "way": "its anchor" if rule == "anchor" else name,
                        "share": share,
                        "seconds": cloned if rule == "anchor" else whole,
                        "returns": returns_of(folder, cell),
                    }
                )
                print(dataset, points[-1], flush=True)
    return points


def mean_return(layout: Layout, dataset: str, act: Callable[[np.ndarray], np.ndarray], seed: int) -> float:
    """Of the episodes that `stages.evaluate` would roll out for this seed."""
    env_id = read_json(layout.data(dataset) / MANIFEST)["environment"]["env_id"]
    results = [
        result
        for block in blocks(EvaluationSettings(), env_id, [seed])
        for result in roll_out(act, lambda: make_env(env_id), block)
    ]
    return float(np.mean([result.total for result in results]))


def peers(peer: str, layout: Layout, dataset: str, temporary: Path) -> list[dict[str, Any]]:
    """Points of d3rlpy's algorithms."""
    data = dataset_of(layout, dataset)
    path, scaler = arrays(temporary, data, data.train_steps), data.scaler
    points = []
    for algorithm, name in PEERS.items():
        folders = [temporary / f"{dataset.replace('/', '_')}-{algorithm}-{seed}" for seed in SEEDS]
        commands = []
        for seed, folder in zip(SEEDS, folders, strict=True):
            folder.mkdir()
            options = ["--steps", STEPS, "--every", EVERY, "--seed", seed, "--folder", folder]
            script = str(ROOT / "benchmarks/peer_d3rlpy.py")
            commands.append([peer, script, str(path), algorithm, *map(str, options)])
        runs = side_by_side(commands)
        for i, saved in enumerate(runs[0]["saved"]):
            returns = []
            for seed, folder in zip(SEEDS, folders, strict=True):
                network = torch.jit.load(str(folder / f"{saved['step']}.pt"))

                def act(raw: np.ndarray, network: Any = network) -> np.ndarray:
                    with torch.no_grad():
                        unit = network(torch.from_numpy(scaler.standardise(raw)))
                    return scaler.actions_from_unit(unit.numpy())

                returns.append(mean_return(layout, dataset, act, seed))
            seconds = [run["saved"][i]["seconds"] for run in runs]
            points.append({"way": name, "steps": saved["step"], "seconds": seconds, "returns": returns})
            print(dataset, points[-1], flush=True)
    return points


def main() -> None:
    """Run both on every dataset, print the points, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment with d3rlpy")
    parser.add_argument("--datasets", nargs="*", default=DATASETS)
    args = parser.parse_args()
    if not args.peer:
        sys.exit("error: --peer is missing: the Python of an environment with benchmarks/requirements-d3rlpy.txt")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        environment = clone(folder)
        for dataset in args.datasets:
            command = module("stages.download", "--dataset", dataset)
            subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)
            points = spar(folder, environment, dataset)
            points += peers(args.peer, Layout(folder), dataset, Path(temporary))
            # Those that were not asked for stay as they were measured.
            found = (read("quality") or {}).get("datasets", {}) | {dataset: points}
            write("quality", {"seeds": SEEDS, "shares": SHARES, "datasets": found})


if __name__ == "__main__":
    main()
