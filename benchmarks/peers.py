"""Updates a second beside d3rlpy: the same data, network sizes, batch and steps, in turn, in one run.

    python -m venv /path/to/env && /path/to/env/bin/pip install -r benchmarks/requirements-d3rlpy.txt
    python benchmarks/peers.py --peer /path/to/env/bin/python

Behaviour cloning, and IQL with twin critics, value and actor (here: `fit_critic` with `iql`, and `awr_scratch`, a
policy of its own by advantage-weighted regression; both are counted). One thread a process. First one process with
one seed; then all cores at once: d3rlpy one seed a process, this project eight seeds shared out over as many processes.
Printed are medians over the repeats, of updates of one seed a second, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/peers.json"
# What of this project does the work of each algorithm.
STAGES = {"bc": ("fit_bc",), "iql": ("fit_critic", "awr_scratch")}
SEEDS = 8


def arrays(folder: Path, dataset: Any) -> Path:
    """The dataset's arrays as d3rlpy takes them."""
    path = folder / "arrays.npz"
    ends = np.zeros(len(dataset.actions), np.float32)
    ends[np.cumsum(dataset.lengths) - 1] = 1.0
    np.savez(
        path,
        observations=dataset.observations[dataset.observation_index],
        actions=dataset.actions,
        rewards=dataset.rewards,
        terminals=np.zeros_like(ends),
        timeouts=ends,
    )
    return path


def ours(algorithm: str, seeds: Sequence[int], steps: int) -> float:
    """Seconds of an update of one seed, in this process."""
    import time

    import torch
    import updates

    from spar_core.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    jobs = updates.jobs(updates.WARM + steps, updates.data(200_000), seeds)
    total = 0.0
    for stage in STAGES[algorithm]:
        ticks: list[float] = []
        jobs[stage](updates.reporter(seeds, lambda ticks=ticks: ticks.append(time.perf_counter())))
        total += (ticks[-1] - ticks[updates.WARM - 1]) / (len(ticks) - updates.WARM) / len(seeds)
    return total


def side_by_side(commands: Sequence[list[str]]) -> float:
    """Updates of one seed a second, of all commands together."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) for c in commands]
    rates = []
    for process in running:
        output, _ = process.communicate()
        if process.returncode != 0:
            sys.exit(f"error: {process.args} failed")
        rates.append(1 / json.loads(output.splitlines()[-1])["seconds_an_update"])
    return sum(rates)


def main() -> None:
    """Measure in turn, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment with d3rlpy")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/peers.json")
    parser.add_argument("--ours", nargs=2, metavar=("ALGORITHM", "SEEDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        seeds = [int(seed) for seed in args.ours[1].split(",")]
        print(json.dumps({"seconds_an_update": ours(args.ours[0], seeds, args.steps)}))
        return
    if not args.peer:
        sys.exit("error: --peer is missing: the Python of an environment with benchmarks/requirements-d3rlpy.txt")
    import updates

    cores = len(os.sched_getaffinity(0))
    shares = [",".join(map(str, range(i, SEEDS, cores))) for i in range(cores)]
    steps = ["--steps", str(args.steps)]
    rows = []
    print("| algorithm | processes | d3rlpy, updates a second | here | ratio |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        path = arrays(Path(folder), updates.data(200_000))
        for algorithm in STAGES:
            mine = [sys.executable, __file__, *steps, "--ours", algorithm]
            theirs = [args.peer, str(ROOT / "benchmarks/peer_d3rlpy.py"), str(path), algorithm, *steps]
            for processes, groups in ((1, ["0"]), (cores, shares)):
                found: list[tuple[float, float]] = []
                for _ in range(args.repeats):
                    peer = side_by_side([theirs] * processes)
                    found.append((peer, side_by_side([[*mine, group] for group in groups])))
                peer, own = (statistics.median(column) for column in zip(*found, strict=True))
                rows.append({"algorithm": algorithm, "processes": processes, "peer": peer, "ours": own})
                print(f"| {algorithm} | {processes} | {peer:.0f} | {own:.0f} | {own / peer:.2f} |", flush=True)
    if args.write:
        machine = {"processor": platform.processor() or platform.machine(), "cores": cores}
        told = {"machine": machine, "steps": args.steps, "repeats": args.repeats, "rows": rows}
        RESULT.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    main()
