"""What starts cost, and how much memory training takes.

    python -m benchmarks.start_up

Seconds are medians over new processes, in turn; a stage that has nothing to do but to print its help has imported all
that it needs. Memory is the peak of resident memory of a process that runs a training loop at its defaults on a dataset
of 200 000 steps, beside what the same process had held before it (Python and the libraries). Writes
benchmarks/results/start_up.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import ROOT, module, side_by_side, write
from benchmarks.workloads import jobs, made_data
from spar_core.training.memory import keep_freed_memory
from spar_core.training.reporter import Reporter

STAGES = ("download", "fit_bc", "fit_residual", "fit_critic", "self_imitation", "evaluate", "report")
STARTS = {
    "Python": [sys.executable, "-c", "pass"],
    "Python and Torch": [sys.executable, "-c", "import torch"],
    **{f"stages.{stage} --help": module(f"stages.{stage}", "--help") for stage in STAGES},
    "dvc --version": module("dvc", "--version"),
}
LOOPS = ("fit_bc", "fit_residual", "fit_critic", "spar_mlp", "spar_proj")
SEEDS = (1, 4, 8)


def start(command: list[str]) -> float:
    """Seconds of a process."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - begun


def peak() -> int:
    """Largest resident memory of this process so far, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(stage: str, count: int) -> dict[str, int]:
    """Peak of resident memory, in this process: before the dataset is there, and after the loop."""
    torch.set_num_threads(1)
    keep_freed_memory()
    before = peak()
    seeds = list(range(count))
    jobs(200, made_data(200_000), seeds)[stage](Reporter(seeds))
    return {"libraries": before, "peak": peak()}


def main() -> None:
    """Measure, print the tables, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("STAGE", "SEEDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(memory(args.memory[0], int(args.memory[1]))))
        return
    turns = [[start(command) for command in STARTS.values()] for _ in range(args.repeats)]
    starts = dict(zip(STARTS, map(statistics.median, zip(*turns, strict=True)), strict=True))
    print("| started | median seconds |\n|---|--:|")
    for name, seconds in starts.items():
        print(f"| `{name}` | {seconds:.2f} |")
    print("\n| loop | seeds | peak MB | of it Python and libraries |\n|---|--:|--:|--:|")
    rows = []
    for stage in LOOPS:
        for count in SEEDS:
            found = side_by_side([module("benchmarks.start_up", "--memory", stage, count)])[0]
            rows.append({"stage": stage, "seeds": count, **found})
            print(f"| {stage} | {count} | {found['peak'] / 1e6:.0f} | {found['libraries'] / 1e6:.0f} |", flush=True)
    write("start_up", {"repeats": args.repeats, "starts": starts, "memory": rows})


if __name__ == "__main__":
    main()
