"""Updates a second beside d3rlpy: the same data, network sizes, batch and steps, in turn, in one run.

    python -m benchmarks.peers --peer .venv-d3rlpy/bin/python     # `make benchmark` makes that environment

Behaviour cloning, and IQL with twin critics, value and actor (here: `fit_critic` with `iql`, and `awr_scratch`, a
policy of its own by advantage-weighted regression; both are counted). One thread a process. First one process with
one seed; then all cores at once: d3rlpy one seed a process, this project eight seeds shared out over as many processes.
Ratios are medians over the repeats, of two measurements right after each other.

From the rates follows the time to compare five anchors by their improvement on one dataset, at 10 000 steps a stage:
d3rlpy clones five and trains IQL five times; this project clones five, fits five residual models and five rules
(`spar_mlp`, its candidates included), and one critic. Writes benchmarks/results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import ROOT, cores, module, side_by_side, write
from benchmarks.workloads import WARM, jobs, made_data, timed
from spar_core.data.dataset import Dataset
from spar_core.training.memory import keep_freed_memory

# What of this project does the work of each algorithm; the last two are compared with nothing.
STAGES = {"bc": ("fit_bc",), "iql": ("fit_critic", "awr_scratch"), "residual": ("fit_residual",), "rule": ("spar_mlp",)}
COMPARED = ("bc", "iql")
SEEDS = 8
# The comparison of anchors: how many, and optimiser steps of every stage.
ANCHORS, BUDGET = 5, 10_000


def arrays(folder: Path, dataset: Dataset, steps: np.ndarray) -> Path:
    """Steps of whole episodes of the dataset, as d3rlpy takes them; observations as they are there, standardised."""
    path = folder / "arrays.npz"
    ends = np.zeros(dataset.n_steps, bool)
    ends[dataset.starts + dataset.lengths - 1] = True
    terminals = dataset.step_terminated
    np.savez(
        path,
        observations=dataset.observations[dataset.observation_index][steps],
        actions=dataset.actions[steps],
        rewards=dataset.rewards[steps],
        terminals=terminals[steps].astype(np.float32),
        timeouts=(ends & ~terminals)[steps].astype(np.float32),
    )
    return path


def ours(algorithm: str, seeds: Sequence[int], steps: int) -> list[dict[str, float]]:
    """Seconds of one seed, by stage, in this process: of an update, and until the first one's end."""
    torch.set_num_threads(1)
    keep_freed_memory()
    found = jobs(WARM + steps, made_data(200_000), seeds)
    took = [timed(found[stage], seeds) for stage in STAGES[algorithm]]
    return [{"update": each.update / len(seeds), "first": each.first / len(seeds)} for each in took]


def five_anchors(seconds: dict[str, float], first: float) -> dict[str, float]:
    """Core-seconds that five anchors take, d3rlpy and here; ``first`` is what a rule's candidates take."""
    each = BUDGET * (seconds["bc"] + seconds["residual"] + seconds["rule"]) + first
    peer = ANCHORS * BUDGET * (seconds["peer_bc"] + seconds["peer_iql"])
    here = BUDGET * seconds["critic"] + ANCHORS * each
    return {"steps": BUDGET, "anchors": ANCHORS, "peer": peer, "ours": here, "ratio": peer / here}


def main() -> None:
    """Measure in turn, print the tables, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment with d3rlpy")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", nargs=2, metavar=("ALGORITHM", "SEEDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(args.ours[0], list(range(int(args.ours[1]))), args.steps)))
        return
    if not args.peer:
        sys.exit("error: --peer is missing: the Python of an environment with benchmarks/requirements-d3rlpy.txt")
    whole = cores()
    steps = ["--steps", str(args.steps)]
    rows, seconds = [], {}
    print("| algorithm | processes | d3rlpy, updates a second | here | ratio |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        dataset = made_data(200_000)
        path = arrays(Path(folder), dataset, np.arange(dataset.n_steps))
        for algorithm in COMPARED:
            theirs = [args.peer, str(ROOT / "benchmarks/peer_d3rlpy.py"), str(path), algorithm, *steps]
            for processes, seeds in ((1, 1), (whole, SEEDS // whole)):
                mine = module("benchmarks.peers", "--ours", algorithm, seeds, *steps)
                pairs: list[tuple[float, float]] = []
                for _ in range(args.repeats):
                    peer = sum(1 / found["seconds_an_update"] for found in side_by_side([theirs] * processes))
                    parts = side_by_side([mine] * processes)
                    pairs.append((peer, sum(1 / sum(stage["update"] for stage in stages) for stages in parts)))
                    if (algorithm, processes) == ("iql", 1):
                        seconds["critic"] = parts[0][0]["update"]
                peer, own = (statistics.median(column) for column in zip(*pairs, strict=True))
                ratio = statistics.median(b / a for a, b in pairs)
                rows.append({"algorithm": algorithm, "processes": processes, "peer": peer, "ours": own, "ratio": ratio})
                if processes == 1:
                    seconds |= {algorithm: 1 / own, f"peer_{algorithm}": 1 / peer}
                print(f"| {algorithm} | {processes} | {peer:.0f} | {own:.0f} | {ratio:.2f} |", flush=True)
    first = 0.0
    for algorithm in ("residual", "rule"):
        (stage,) = side_by_side([module("benchmarks.peers", "--ours", algorithm, 1, *steps)])[0]
        seconds[algorithm], first = stage["update"], stage["first"]
    five = five_anchors(seconds, first)
    print(f"\nfive anchors: d3rlpy {five['peer']:.0f} s, here {five['ours']:.0f} s, {five['ratio']:.2f}")
    write("peers", {"steps": args.steps, "repeats": args.repeats, "rows": rows, "five_anchors": five})


if __name__ == "__main__":
    main()
