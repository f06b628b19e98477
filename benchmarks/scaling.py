"""How training scales over cores, alone and on a machine that is busy with other things.

    python -m benchmarks.scaling

Eight seeds, shared out over 1, 2, ... processes of one thread, as the stages do; timed is the slowest process of
each. Then the same with as many other processes as there are cores, each of which multiplies matrices without end: a
fair share of the machine is then a half. Beside it, one process with a thread for each core, which is what Torch does
by itself. Medians over the repeats; compare rows of one run. Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.common import cores, module, side_by_side, write
from benchmarks.workloads import jobs, made_data, timed
from spar_core.training.memory import keep_freed_memory

SEEDS = 8
STAGES = ("fit_bc", "fit_critic")
SPIN = "import torch; torch.set_num_threads(1); x = torch.randn(256, 256)\nwhile True: x @ x"


@contextlib.contextmanager
def competitors(count: int) -> Iterator[None]:
    """Other processes that keep a core busy each."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def throughput(stage: str, processes: int, threads: int, steps: int) -> float:
    """Updates of one seed a second, of all processes together."""
    command = module("benchmarks.scaling", "--one", stage, SEEDS // processes, threads, "--steps", steps)
    return SEEDS / max(side_by_side([command] * processes))


def main() -> None:
    """Measure in turn, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("STAGE", "SEEDS", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        stage, count, threads = args.one[0], int(args.one[1]), int(args.one[2])
        torch.set_num_threads(threads)
        keep_freed_memory()
        seeds = list(range(count))
        print(json.dumps(timed(jobs(args.steps, made_data(200_000), seeds)[stage], seeds).update))
        return
    whole = cores()
    ways = [(n, 1) for n in range(1, whole + 1) if SEEDS % n == 0]
    ways += [(1, whole)] if whole > 1 else []
    rows = []
    print("| stage | processes | threads | other processes | updates a second | ratio to one, alone |")
    print("|---|--:|--:|--:|--:|--:|")
    for stage in STAGES:
        found: dict[tuple[int, int, int], list[float]] = {}
        for _ in range(args.repeats):
            for busy in (0, whole):
                with competitors(busy):
                    for processes, threads in ways:
                        took = throughput(stage, processes, threads, args.steps)
                        found.setdefault((processes, threads, busy), []).append(took)
        alone = statistics.median(found[1, 1, 0])
        for (processes, threads, busy), rates in found.items():
            rate = statistics.median(rates)
            rows.append(
                {
                    "stage": stage,
                    "processes": processes,
                    "threads": threads,
                    "others": busy,
                    "updates_a_second": rate,
                    "ratio": statistics.median(a / b for a, b in zip(rates, found[1, 1, 0], strict=True)),
                }
            )
            print(f"| {stage} | {processes} | {threads} | {busy} | {rate:.0f} | {rate / alone:.2f} |", flush=True)
    write("scaling", {"seeds": SEEDS, "steps": args.steps, "repeats": args.repeats, "rows": rows})


if __name__ == "__main__":
    main()
