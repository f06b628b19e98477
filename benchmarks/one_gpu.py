"""One CUDA device: seconds of an update, captured, compiled and plain, and how far results are from the CPU's.

    python -m benchmarks.one_gpu                # about ten minutes on a card of 2023, most of it the whole run

All seeds train in one process, in one batch, as stages do with SPAR_DEVICE=cuda. Measured in turn: `agreement`, the
same short fits on the CPU and twice on the device, from the same seeds; `rates`, seconds of an update at the length of
loop where the device is kept busy, for the ways of running it; `whole`, an IQL critic from its first operation to its
calibration. Writes benchmarks/results/one_gpu.json after each.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from benchmarks.common import read, write
from benchmarks.workloads import WARM, Job, Ticking, jobs, made_data
from spar_core.critics import iql
from spar_core.training import loop as updates
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.reporter import Reporter

DEVICE = "cuda"
# Of the default pipeline, in its order; stage (iii) with one rule.
PIPELINE = ("fit_bc", "fit_residual", "fit_critic", "spar_mlp")
AGREEMENT_STEPS, AGREEMENT_SEEDS = 300, [0, 1]
PARTS = ("agreement", "rates", "whole")
LOSSES = ("loss", "reconstruction", "kl")
# What a loop is told to be; timed are its first updates, which is what the rest of so long a loop does too.
BUDGET = 1_000_000
CANDIDATES = {"states": 50_000, "candidates": 16, "refreshes": 1}


def distance(fitted: Fitted, expected: Fitted) -> dict[str, float]:
    """How far apart two fits are: the largest |a - b| / |b| of a weight tensor, and of a loss at the last step."""
    weights = [
        float((value - expected.tensors[name]).norm() / expected.tensors[name].norm())
        for name, value in fitted.tensors.items()
    ]
    last = expected.curves[-1][0]
    losses = [
        abs(a - b) / abs(b)
        for (step, _, name, a), (_, _, _, b) in zip(fitted.curves, expected.curves, strict=True)
        if step == last and name.endswith(LOSSES)
    ]
    return {"weights": max(weights), "losses": max(losses)}


@contextlib.contextmanager
def from_step(number: int) -> Iterator[None]:
    """Loops of at least that many steps are compiled."""
    with mock.patch.object(updates, "COMPILED_FROM", number):
        yield


def agreement() -> list[dict[str, Any]]:
    """Short fits of every stage of the pipeline, from the same seeds: on the CPU, and twice on the device."""
    data, rows = made_data(20_000), []

    def fits(device: str) -> dict[str, Fitted]:
        found = jobs(AGREEMENT_STEPS, data, AGREEMENT_SEEDS, device, states=5000)
        return {stage: found[stage](Reporter(AGREEMENT_SEEDS)) for stage in PIPELINE}

    expected = fits("cpu")
    for way, first in (("captured", sys.maxsize), ("compiled, captured", 0)):
        with from_step(first):
            found, again = fits(DEVICE), fits(DEVICE)
        for stage in PIPELINE:
            pairs = zip(found[stage].tensors.values(), again[stage].tensors.values(), strict=True)
            same = all(torch.equal(a, b) for a, b in pairs)
            rows.append({"stage": stage, "way": way, **distance(found[stage], expected[stage]), "repeats": same})
    return rows


class Enough(Exception):
    """The updates that are timed are done."""


def seconds(job: Job, seeds: Sequence[int], steps: int) -> tuple[float, float]:
    """Of an update, over ``steps`` of them after the first ``WARM``; and from the start to those.

    The loop is left then. A point of the learning curve waits for the device, so that a short loop with its hundred
    points would say little about a long one.
    """
    marks: list[float] = []
    count = itertools.count(1)

    def tick() -> None:
        done = next(count)
        if done in (WARM, WARM + steps):
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
        if done == WARM + steps:
            raise Enough

    begun = time.perf_counter()
    with contextlib.suppress(Enough):
        job(Ticking(seeds, tick))
    return (marks[1] - marks[0]) / steps, marks[0] - begun


@contextlib.contextmanager
def plain_calls() -> Iterator[None]:
    """No update is captured: all are like those before a capture."""
    with mock.patch.object(updates, "WARM", sys.maxsize), from_step(sys.maxsize):
        yield


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Matrix products on the tensor cores, of numbers with ten bits after the point."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@contextlib.contextmanager
def compiled_with_tf32() -> Iterator[None]:
    """Both."""
    with tf32(), from_step(0):
        yield


WAYS = {
    "compiled, captured": lambda: from_step(0),
    "captured": lambda: from_step(sys.maxsize),
    "plain calls": plain_calls,
    "compiled, captured, TF32": compiled_with_tf32,
}


def rates(count: int, steps: int) -> list[dict[str, Any]]:
    """Seconds of an update of all seeds together, by stage and way."""
    seeds, rows = list(range(count)), []
    found = jobs(BUDGET, made_data(100_000), seeds, DEVICE, **CANDIDATES)
    for way, context in WAYS.items():
        for stage in ("fit_critic",) if way.endswith("TF32") else PIPELINE:
            with context():
                update, first = seconds(found[stage], seeds, steps // 5 if way == "plain calls" else steps)
            rows.append({"stage": stage, "seeds": count, "way": way, "update": update, "first": first})
            print(f"| {stage} | {count} | {way} | {1e6 * update:.0f} us | {first:.1f} s |", flush=True)
    return rows


def whole_critic(count: int, steps: int) -> dict[str, Any]:
    """An IQL critic of ``count`` seeds on a million transitions, from nothing to its calibration; no warm start.

    Written on the way: seconds to every 100 000th update.
    """
    told: dict[str, Any] = {"seeds": count, "steps": steps, "marks": [], "seconds": None, "peak_bytes": None}
    data, seeds = made_data(1_000_000), list(range(count))
    settings = iql.IQLCritic.Settings(steps=steps, warm_start_steps=0)
    done = itertools.count(1)
    begun = time.perf_counter()

    def tick() -> None:
        if (step := next(done)) % 100_000 == 0:
            torch.cuda.synchronize()
            told["marks"].append([step, time.perf_counter() - begun])
            write_part("whole", told)

    iql.IQLCritic.fit(Context(data, seeds, Ticking(seeds, tick), DEVICE), settings)
    torch.cuda.synchronize()
    told["seconds"], told["peak_bytes"] = time.perf_counter() - begun, torch.cuda.max_memory_allocated()
    return told


def write_part(name: str, told: Any) -> None:
    """Put a part into the result; the others stay as they were measured."""
    known: dict[str, Any] = dict.fromkeys(PARTS) | (read("one_gpu") or {})
    known |= {"device": {"name": torch.cuda.get_device_name(), "cuda": torch.version.cuda}, "budget": BUDGET}
    write("one_gpu", known | {"pipeline": PIPELINE, "agreement_steps": AGREEMENT_STEPS, name: told})


def main() -> None:
    """Measure, print, and write the result after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000, help="updates that are timed")
    parser.add_argument("--whole", type=int, default=BUDGET, help="updates of the whole critic")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="the others stay as they were measured"
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: there is no CUDA device here: run this on a machine that has one, with a Torch built for it")
    torch.set_num_threads(1)
    measure = {
        "agreement": agreement,
        "rates": lambda: rates(args.seeds, args.steps),
        "whole": lambda: whole_critic(args.seeds, args.whole),
    }
    for part in args.parts:
        told = measure[part]()
        print(told, flush=True)
        write_part(part, told)


if __name__ == "__main__":
    main()
