"""Run the cells of the study side by side: `python -m stages.parallel.sweep --jobs 2`.

The results equal those of `dvc repro`, which runs the cells one by one.

Every cell is one `dvc repro --single-item` in a process of its own, which waits while another process holds DVC's lock.
A cell's output goes to runs/sweep/<cell>.log. After a failure, the cells that depend on the failed one are left out,
all others are finished, and the failures are listed. On Ctrl-C the running cells keep their checkpoints, and the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spar_core.errors import Interrupted, SparError
from spar_core.training.interrupts import stop_on_signal
from stages.entry import stage_main
from stages.layout import Layout
from stages.parallel.child import dvc_environment
from stages.parallel.graph import PLAN, read_graph, restrict
from stages.parallel.schedule import Schedule

# Seconds between two polls of the running cells.
LOOK = 0.1


@dataclass
class Running:
    """A running cell: its process, its log, and the time at which it began."""

    process: subprocess.Popen[bytes]
    log: Path
    begun: float


def log_of(layout: Layout, name: str) -> Path:
    """The file that holds a cell's output."""
    return layout.root / "runs" / "sweep" / f"{name.replace('/', '_')}.log"


def launch(layout: Layout, name: str, workers: int) -> Running:
    """Start `dvc repro` of one cell, with ``workers`` worker processes."""
    log = log_of(layout, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name],
            cwd=layout.root,
            env=dvc_environment(OMP_NUM_THREADS="1", SPAR_WORKERS=str(workers)),
            stdout=handle,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # In a process group of its own, so that Ctrl-C reaches the cell through this process alone.
            start_new_session=True,
        )
    return Running(process, log, time.monotonic())


def reason(log: Path) -> str:
    """The line of a log that tells why a cell failed."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error:")] or [line for line in lines if "ERROR" in line] or lines
    return told[0] if told else "it printed nothing"


def sweep(layout: Layout, targets: Sequence[str], jobs: int, workers: int) -> Schedule:
    """Run the cells that the targets need, ``jobs`` at a time, each with ``workers`` worker processes.

    Raises:
        Interrupted: this process was asked to stop.
    """
    schedule = Schedule(restrict(read_graph(layout.root), targets))
    running: dict[str, Running] = {}
    stopping: list[bool] = []
    total = len(schedule.graph)
    with stop_on_signal(lambda: stopping.append(True)):
        try:
            while running or not (schedule.over() or stopping):
                while not stopping and len(running) < jobs and (name := schedule.start()):
                    running[name] = launch(layout, name, workers)
                if stopping == [True]:
                    stopping.append(True)
                    print("stopping: the running cells keep a checkpoint; Ctrl-C again stops them at once", flush=True)
                    tell(running, signal.SIGINT)
                for name, cell in list(running.items()):
                    status = cell.process.poll()
                    if status is None:
                        continue
                    del running[name]
                    schedule.finish(name, status == 0)
                    say_ended(schedule, name, "done" if status == 0 else "FAILED", cell.begun)
                time.sleep(LOOK)
        except KeyboardInterrupt:
            tell(running, signal.SIGKILL)
            raise
    if stopping:
        raise Interrupted(f"{len(schedule.done)} of {total} cells are done", "the same command goes on from there")
    return schedule


def tell(running: dict[str, Running], number: signal.Signals) -> None:
    """Send a signal to every process of the running cells."""
    for cell in running.values():
        try:
            os.killpg(cell.process.pid, number)
        except ProcessLookupError:
            continue


def say_ended(schedule: Schedule, name: str, how: str, begun: float) -> None:
    """Print one line about a cell that has just ended."""
    took = time.monotonic() - begun
    print(f"[{schedule.ended}/{len(schedule.graph)}] {name}: {how}, {took:.0f} s", flush=True)


def plan_first(layout: Layout) -> None:
    """Run `plan`, on which every cell depends.

    Raises:
        SparError: `plan` refused the params; the error holds its own message.
    """
    plan = launch(layout, PLAN, 1)
    if plan.process.wait() != 0:
        raise SparError(reason(plan.log).removeprefix("error: "))


def summary(layout: Layout, schedule: Schedule) -> None:
    """Print which cells failed and why.

    Raises:
        SparError: a cell failed.
    """
    for name in sorted(schedule.failed):
        print(f"failed: {name}: {reason(log_of(layout, name))} ({log_of(layout, name)})", file=sys.stderr)
    if schedule.failed:
        left = f", and {len(schedule.left_out)} that depend on them were left out" if schedule.left_out else ""
        raise SparError(
            f"{len(schedule.failed)} of {len(schedule.graph)} cells failed{left}; {len(schedule.done)} are done",
            "mend the causes and run again; finished cells are not run again",
        )


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.parallel.sweep``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="stages or cells, run with all they need (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="cells that run at a time (default: 2)")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise SparError(f"--jobs {args.jobs} runs no cell", "set it to 1 or more")
    layout = Layout()
    plan_first(layout)
    cores = len(os.sched_getaffinity(0))
    schedule = sweep(layout, args.targets, args.jobs, max(1, cores // args.jobs))
    summary(layout, schedule)
    print(f"all {len(schedule.graph)} cells are done")


if __name__ == "__main__":
    sys.exit(stage_main(run))
