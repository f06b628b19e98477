"""What share of the machine's matrix-product rate the training loops reach.

    python -m benchmarks.updates                # every stage at its defaults, 1, 2, 4 and 8 seeds in one process
    python -m benchmarks.updates --quick        # a fifth of the steps, for a look

One thread. Floating-point operations of one update are counted by Torch (`torch.utils.flop_counter`: matrix products,
padding included); the floor is the time that they would take at the rate of a batched product [S, B, H] x [S, H, H],
measured before and after each stage in the same process. What is timed is the whole loop as a stage runs it:
minibatches, progress, and the learning curve as often as in a loop of the default length. Then stage (iii) with K = 16,
50 000 states and one refresh, from its first candidate to its last update, beside behaviour cloning of as many steps.
Machines are shared and noisy: compare rows of one run. Writes benchmarks/results/updates.json.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write
from benchmarks.workloads import Job, Ticking, jobs, made_data, timed
from spar_core.training.memory import keep_freed_memory

# Of one seed; with several, fewer.
STEPS = 2000
# Updates whose operations are counted: most of them are no points of the learning curve.
COUNTED = 400
# Steps of stage (iii) and of behaviour cloning beside it: the default of params.yaml, and more.
IMITATED = (5000, 20_000)


def product_rate(seeds: int, rows: int = 256, width: int = 256, repeats: int = 200) -> float:
    """Median rate of a batched matrix product, in floating-point operations a second."""
    x, y = torch.randn(seeds, rows, width), torch.randn(seeds, width, width)
    out, took = torch.empty(seeds, rows, width), []
    for _ in range(repeats):
        begun = time.perf_counter()
        torch.bmm(x, y, out=out)
        took.append(time.perf_counter() - begun)
    return 2 * seeds * rows * width * width / statistics.median(took)


def operations(job: Job, seeds: list[int]) -> float:
    """Median floating-point operations of an update, of all seeds together."""
    counter = FlopCounterMode(display=False)
    seen: list[int] = []
    with counter:
        job(Ticking(seeds, lambda: seen.append(counter.get_total_flops())))
    return float(np.median(np.diff(seen)))


def measure(job: Job, counted: Job, seeds: list[int]) -> dict[str, float]:
    """Seconds and operations of an update of one seed, the machine's rate beside it, and the share reached."""
    flops = operations(counted, seeds)
    before = product_rate(len(seeds))
    took = timed(job, seeds)
    rate = (before + product_rate(len(seeds))) / 2
    return {
        "seconds_an_update": took.update / len(seeds),
        "gigaflop_an_update": flops / len(seeds) / 1e9,
        "product_gigaflops": rate / 1e9,
        "share_of_floor": flops / rate / took.update,
    }


def imitation(steps: int) -> dict[str, float]:
    """Seconds of behaviour cloning and of stage (iii), all of each, for one seed."""
    found = jobs(steps, made_data(200_000), [0], states=50_000, candidates=16, refreshes=1)
    took = {name: timed(found[name], [0]).whole for name in ("fit_bc", "spar_mlp", "spar_proj")}
    return {"steps": steps, **took}


def main() -> None:
    """Measure every stage, print the tables, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the steps, and nothing is written")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 4, 8])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    steps = STEPS // 5 if args.quick else STEPS
    dataset = made_data(200_000)
    rows = []
    print("| stage | seeds | updates a second | GFLOP an update | product, GFLOP/s | share of the floor |")
    print("|---|--:|--:|--:|--:|--:|")
    for n in args.seeds:
        seeds = list(range(n))
        whole, counted = jobs(max(COUNTED, steps // n), dataset, seeds), jobs(COUNTED, dataset, seeds)
        for name, job in whole.items():
            found = measure(job, counted[name], seeds)
            rows.append({"stage": name, "seeds": n, **found})
            print(
                f"| {name} | {n} | {1 / found['seconds_an_update']:.0f} | {found['gigaflop_an_update']:.3f} "
                f"| {found['product_gigaflops']:.0f} | {found['share_of_floor']:.2f} |",
                flush=True,
            )
    print("\n| steps | fit_bc, s | spar_mlp, s | ratio | spar_proj, s | ratio |\n|--:|--:|--:|--:|--:|--:|")
    beside = []
    for count in (steps // 2,) if args.quick else IMITATED:
        told = imitation(count)
        beside.append(told)
        bc = told["fit_bc"]
        cells = " | ".join(f"{told[name]:.1f} | {told[name] / bc:.2f}" for name in ("spar_mlp", "spar_proj"))
        print(f"| {count} | {bc:.1f} | {cells} |", flush=True)
    if not args.quick:
        write("updates", {"steps": steps, "rows": rows, "stage_iii": beside})


if __name__ == "__main__":
    main()
