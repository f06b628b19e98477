"""Run the cells of the study side by side: `python -m stages.parallel.sweep`.

The results equal those of `dvc repro`, which runs the cells one by one.

Cells that DVC finds unchanged are not looked at again. Every other cell is one `dvc repro --single-item` in a process
of its own (:mod:`stages.parallel.warm`), which waits while another process holds DVC's lock. A cell's output goes to
runs/sweep/<cell>.log. After a failure, the cells that depend on the failed one are left out, all others are finished,
and the failures are listed. On Ctrl-C the running cells keep their checkpoints, and the same command goes on from
there. At the end, a table says which stages took the time.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from spar_core.errors import Interrupted, SparError
from spar_core.training.interrupts import stop_on_signal
from stages.entry import stage_main
from stages.layout import Layout
from stages.parallel.child import dvc_environment
from stages.parallel.graph import PLAN, check_place, to_run
from stages.parallel.schedule import Schedule
from stages.parallel.warm import ask, start_repro
from stages.table import STAGES

# Seconds between two polls of the running cells.
LOOK = 0.1


class CellsFailed(SparError):
    """Some cells failed, and all others that do not depend on them are done."""


@dataclass
class Running:
    """A running cell: its process, its log, and the time at which it began."""

    process: BaseProcess
    log: Path
    begun: float


def log_of(layout: Layout, name: str) -> Path:
    """The file that holds a cell's output."""
    return layout.root / "runs" / "sweep" / f"{name.replace('/', '_')}.log"


def launch(layout: Layout, name: str, workers: int) -> Running:
    """Start `dvc repro` of one cell, with ``workers`` worker processes, or one a core for a wide stage."""
    stage = STAGES.get(name.split("@")[0])
    if stage is not None and stage.wide:
        workers = len(os.sched_getaffinity(0))
    log, begun = log_of(layout, name), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = dvc_environment(OMP_NUM_THREADS="1", SPAR_WORKERS=str(workers))
    return Running(start_repro(layout.root.resolve(), name, log, variables), log, begun)


def reason(log: Path) -> str:
    """The line of a log that tells why a cell failed."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if told := [line for line in lines if line.startswith("error:")] or [line for line in lines if "ERROR" in line]:
        return told[0]
    # Where a process ended with a traceback, its last line names the error.
    return lines[-1] if lines else "it printed nothing"


def sweep(layout: Layout, targets: Sequence[str], jobs: int, workers: int) -> tuple[Schedule, dict[str, float]]:
    """Run the cells that the targets need, ``jobs`` at a time, each with ``workers`` worker processes.

    Returns:
        The schedule at its end, and the seconds that each cell took.

    Raises:
        Interrupted: this process was asked to stop.
    """
    schedule = Schedule(ask(to_run, layout.root.resolve(), targets))
    seconds: dict[str, float] = {}
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
                    status = cell.process.exitcode
                    if status is None:
                        continue
                    del running[name]
                    seconds[name] = time.monotonic() - cell.begun
                    schedule.finish(name, status == 0)
                    say_ended(schedule, name, "done" if status == 0 else "FAILED", cell.begun)
                time.sleep(LOOK)
        except KeyboardInterrupt:
            tell(running, signal.SIGKILL)
            raise
    if stopping:
        raise Interrupted(f"{len(schedule.done)} of {total} cells are done", "the same command goes on from there")
    return schedule, seconds


def tell(running: dict[str, Running], number: signal.Signals) -> None:
    """Send a signal to every process of the running cells."""
    for cell in running.values():
        try:
            os.killpg(cell.process.pid or 0, number)
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
    plan.process.join()
    if plan.process.exitcode != 0:
        raise SparError(reason(plan.log).removeprefix("error: "))


def summary(layout: Layout, schedule: Schedule) -> None:
    """Print which cells failed and why.

    Raises:
        CellsFailed: a cell failed.
    """
    for name in sorted(schedule.failed):
        print(f"failed: {name}: {reason(log_of(layout, name))} ({log_of(layout, name)})", file=sys.stderr)
    if schedule.failed:
        left = f", and {len(schedule.left_out)} that depend on them were left out" if schedule.left_out else ""
        raise CellsFailed(
            f"{len(schedule.failed)} of {len(schedule.graph)} cells failed{left}; {len(schedule.done)} are done",
            "mend the causes and run again; finished cells are not run again",
        )


def where_time_went(seconds: Mapping[str, float]) -> list[str]:
    """Lines of a table: the stages, the longest first, with their cells, their seconds and their share of all seconds.

    Args:
        seconds: of each cell, by its name.
    """
    stages: dict[str, list[float]] = {}
    for name, took in seconds.items():
        stages.setdefault(name.split("@")[0], []).append(took)
    total = sum(seconds.values())
    lines = [f"{'stage':16}{'cells':>6}{'seconds':>9}{'share':>7}"]
    for stage, each in sorted(stages.items(), key=lambda item: -sum(item[1])):
        lines.append(f"{stage:16}{len(each):6}{sum(each):9.0f}{sum(each) / total:7.0%}")
    return lines


def default_jobs(cores: int) -> int:
    """Cells that run at a time if nobody says how many: two, and one for every four cores of a larger machine."""
    return min(cores, max(2, cores // 4))


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.parallel.sweep``.

    Raises:
        CellsFailed: a cell failed.
        SparError: an argument or the params are not valid.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="stages or cells, run with all they need (default: all)")
    parser.add_argument("--jobs", type=int, help="cells that run at a time (default: 2, or more with over 11 cores)")
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise SparError(f"--jobs {args.jobs} runs no cell", "set it to 1 or more")
    layout, begun = Layout(), time.monotonic()
    ask(check_place, layout.root.resolve())
    plan_first(layout)
    cores = len(os.sched_getaffinity(0))
    jobs = args.jobs or default_jobs(cores)
    schedule, seconds = sweep(layout, args.targets, jobs, max(1, cores // jobs))
    summary(layout, schedule)
    if not schedule.graph:
        print("nothing changed: all cells are up to date")
        return
    print(f"all {len(schedule.graph)} cells are done, in {(time.monotonic() - begun) / 60:.1f} minutes:")
    print("\n".join(where_time_went(seconds)))


if __name__ == "__main__":
    sys.exit(stage_main(run))
