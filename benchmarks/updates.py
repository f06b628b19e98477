"""What share of the machine's matrix-product rate the training loops reach, and how their cost grows.

    python benchmarks/updates.py                # every stage at its defaults, 1, 2, 4 and 8 seeds in one process
    python benchmarks/updates.py --quick        # a tenth of the steps, for a look

One thread. Floating-point operations of one update are counted by Torch (`torch.utils.flop_counter`: matrix products,
padding included); the floor is the time that they would take at the rate of a batched product [S, B, H] x [S, H, H],
measured before and after each stage in the same process. What is timed is the whole loop as a stage runs it:
minibatches, learning curve, progress. Machines are shared and noisy: compare rows of one run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/updates.json"
SIZES = (17, 6)  # observations and actions of HalfCheetah and Walker2d
STEPS = 2000
# Updates whose operations are counted: most of them are no points of the learning curve.
COUNTED = 400
# Updates that are left out of the timing: caches, and the memory of the allocator, settle.
WARM = 100


def reporter(seeds: Sequence[int], tick: Callable[[], None]) -> Any:
    """A reporter that calls ``tick`` after every update."""
    from spar_core.reporter import Reporter

    class Ticking(Reporter):
        def advance(self, steps: int) -> None:
            tick()

    return Ticking(list(seeds))


def data(steps: int) -> Any:
    """Random episodes of a thousand steps."""
    from spar_core.data.dataset import Dataset
    from spar_core.data.scaler import Scaler

    rng = np.random.default_rng(0)
    episodes = max(2, steps // 1000)
    n = 1000 * episodes
    scaler = Scaler(
        np.zeros(SIZES[0], np.float32),
        np.ones(SIZES[0], np.float32),
        np.full(SIZES[1], -1.0, np.float32),
        np.full(SIZES[1], 1.0, np.float32),
    )
    return Dataset(
        rng.normal(size=(n + episodes, SIZES[0])).astype(np.float32),
        np.tanh(rng.normal(size=(n, SIZES[1]))).astype(np.float32),
        rng.normal(size=n).astype(np.float32),
        np.full(episodes, 1000, np.int64),
        np.zeros(episodes, bool),
        np.arange(episodes) % 10 == 0,
        scaler,
    )


def jobs(steps: int, dataset: Any, seeds: Sequence[int], **changed: Any) -> dict[str, Callable[[Any], Any]]:
    """Stages by name, each a function of a reporter; ``changed`` replaces settings that a stage has."""
    from spar_core.anchors.mlp import MLPAnchor
    from spar_core.critics.iql import IQLCritic
    from spar_core.improvement.awr_scratch import AWRFromScratch
    from spar_core.improvement.base import Frozen
    from spar_core.improvement.spar_mlp import SparMLP
    from spar_core.improvement.spar_proj import SparProj
    from spar_core.reporter import Reporter
    from spar_core.residual import ResidualModel, ResidualSettings, fit_residual

    def settings(kind: Any, **values: Any) -> Any:
        known = {**values, **changed}
        return kind(**{name: value for name, value in known.items() if name in kind.model_fields})

    anchor_settings = settings(MLPAnchor.Settings, steps=steps)
    residual_settings = settings(ResidualSettings, steps=steps)
    critic_settings = settings(IQLCritic.Settings, steps=steps, warm_start_steps=0)

    def parts() -> Any:
        """Frozen parts: trained for a few steps, since only their sizes count here."""
        few = {"steps": 2}
        quiet = Reporter(list(seeds))
        own = anchor_settings.model_copy(update=few)
        anchor = MLPAnchor.restore(own, MLPAnchor.clone(dataset, own, seeds, quiet, "cpu").tensors)
        mine = residual_settings.model_copy(update=few)
        residual = ResidualModel.restore(mine, fit_residual(dataset, anchor, mine, seeds, quiet).tensors)
        theirs = critic_settings.model_copy(update=few)
        critic = IQLCritic.restore(theirs, IQLCritic.fit(dataset, theirs, seeds, quiet, "cpu").tensors)
        return anchor, Frozen(anchor, residual, critic)

    anchor, frozen = parts()

    def rule(kind: Any) -> Callable[[Any], Any]:
        own = settings(kind.Settings, steps=steps)
        return lambda report: kind.fit(dataset, frozen, own, seeds, report, "cpu")

    return {
        "fit_bc": lambda report: MLPAnchor.clone(dataset, anchor_settings, seeds, report, "cpu"),
        "fit_residual": lambda report: fit_residual(dataset, anchor, residual_settings, seeds, report),
        "fit_critic": lambda report: IQLCritic.fit(dataset, critic_settings, seeds, report, "cpu"),
        "awr_scratch": rule(AWRFromScratch),
        "spar_mlp": rule(SparMLP),
        "spar_proj": rule(SparProj),
    }


def product_rate(seeds: int, rows: int = 256, width: int = 256, repeats: int = 200) -> float:
    """Median rate of a batched matrix product, in floating-point operations a second."""
    x, y = torch.randn(seeds, rows, width), torch.randn(seeds, width, width)
    out, took = torch.empty(seeds, rows, width), []
    for _ in range(repeats):
        begun = time.perf_counter()
        torch.bmm(x, y, out=out)
        took.append(time.perf_counter() - begun)
    return 2 * seeds * rows * width * width / statistics.median(took)


def operations(job: Callable[[Any], Any], seeds: Sequence[int]) -> float:
    """Median floating-point operations of an update, of all seeds together."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    seen: list[int] = []
    with counter:
        job(reporter(seeds, lambda: seen.append(counter.get_total_flops())))
    return float(np.median(np.diff(seen)))


def measure(job: Callable[[Any], Any], counted: Callable[[Any], Any], seeds: Sequence[int]) -> dict[str, float]:
    """Seconds and operations of an update of one seed, the machine's rate beside it, and the share reached."""
    flops = operations(counted, seeds)
    ticks: list[float] = []
    before = product_rate(len(seeds))
    begun = time.perf_counter()
    job(reporter(seeds, lambda: ticks.append(time.perf_counter())))
    whole = time.perf_counter() - begun
    rate = (before + product_rate(len(seeds))) / 2
    seconds = (ticks[-1] - ticks[WARM]) / (len(ticks) - 1 - WARM)
    return {
        "seconds_an_update": seconds / len(seeds),
        "gigaflop_an_update": flops / len(seeds) / 1e9,
        "product_gigaflops": rate / 1e9,
        "share_of_floor": flops / rate / seconds,
        "seconds_before_the_first_update": ticks[0] - begun,
        "seconds_altogether": whole,
    }


def main() -> None:
    """Measure every stage, print the table, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, and nothing is written")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 4, 8])
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = STEPS // 10 if args.quick else STEPS
    dataset = data(200_000)
    rows = []
    print("| stage | seeds | updates a second | GFLOP an update | product, GFLOP/s | share of the floor |")
    print("|---|--:|--:|--:|--:|--:|")
    for n in args.seeds:
        seeds = list(range(n))
        timed, counted = jobs(steps, dataset, seeds), jobs(COUNTED, dataset, seeds)
        for name, job in timed.items():
            found = measure(job, counted[name], seeds)
            rows.append({"stage": name, "seeds": n, **found})
            print(
                f"| {name} | {n} | {1 / found['seconds_an_update']:.0f} | {found['gigaflop_an_update']:.3f} "
                f"| {found['product_gigaflops']:.0f} | {found['share_of_floor']:.2f} |",
                flush=True,
            )
    if not args.quick:
        machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        RESULT.write_text(json.dumps({"machine": machine, "steps": steps, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
