"""Distribute the seeds of a group over several processes with one Torch thread each.

On a busy machine, the threads of one process wait for each other, but separate processes do not. The result of a seed
does not depend on how the seeds are distributed (see :mod:`spar_core.training.networks`).
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from spar_core.errors import Interrupted, SparError
from spar_core.training.checkpoints import Checkpoints, CurveRow
from spar_core.training.interrupts import signals_held_back, stop_on_signal
from spar_core.training.memory import keep_freed_memory
from spar_core.training.reporter import Reporter

Result = TypeVar("Result")
# A seed, or another piece of work, such as a block of episodes.
Unit = TypeVar("Unit")
Job = Callable[[Sequence[Any], Reporter], Result]

# Units of work between two messages of a worker: few enough for a smooth progress bar, many enough to cost little.
MESSAGE_EVERY = 50
_outbox: Any = None
_stop: Any = None


@dataclass(kw_only=True)
class _SendingReporter(Reporter):
    """Sends progress and new points of learning curves through ``send``, every ``MESSAGE_EVERY`` units of work."""

    send: Callable[[tuple[int, list[CurveRow]]], None]
    _steps: int = 0
    _sent: int = 0

    def advance(self, steps: int) -> None:
        if self.stopping():
            raise Interrupted("stopped before the work was complete", "run the same command again")
        self._steps += steps
        if self._steps >= MESSAGE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Send what has not been sent yet."""
        self.send((self._steps, self.rows[self._sent :]))
        self._steps, self._sent = 0, len(self.rows)


def over_seeds(
    job: Job[Result],
    seeds: Sequence[Unit],
    workers: int,
    on_message: Callable[[int, list[CurveRow]], None] = lambda steps, rows: None,
    checkpoints: Checkpoints | None = None,
) -> list[Result]:
    """Divide the seeds into shares, and run ``job(share, reporter)`` on each share in a process of its own.

    Args:
        job: a picklable callable (a module-level function, or an instance of a module-level class).
        seeds: the group's seeds, or other pieces of work.
        workers: largest number of processes; if there is only one share, the job runs in this process.
        on_message: called in this process with (units of work just done, new points of learning curves).
        checkpoints: the checkpoints of the work, with a folder for each share; None keeps no checkpoints.

    Returns:
        One result for each share, in the order of the seeds.

    Raises:
        SparError: a worker was killed, most often because memory ran out.
        Interrupted: this process received SIGINT (Ctrl-C) or SIGTERM, and the workers stopped at the end of a step. A
            second signal stops them at once.
    """
    shares = _share(list(seeds), workers)
    theirs = [_of_share(checkpoints, share) for share in shares]
    if len(shares) == 1:
        return [_run_here(job, shares[0], on_message, theirs[0])]
    context = multiprocessing.get_context("spawn")
    outbox, stop = context.Queue(), context.Event()
    done = threading.Event()
    listener = threading.Thread(target=_listen, args=(outbox, on_message, done), daemon=True)
    listener.start()
    try:
        # Leaving the pool waits for the workers to end, and a worker ends when its messages are sent.
        with (
            stop_on_signal(stop.set),
            ProcessPoolExecutor(len(shares), context, _start_worker, (outbox, stop)) as pool,
        ):
            try:
                # A terminal sends Ctrl-C to all processes of a command. The workers must not receive that signal,
                # because this process tells them to stop.
                with signals_held_back():
                    results = pool.map(_run_in_worker, [job] * len(shares), shares, theirs)
                return list(results)
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.kill()
                raise
    except BrokenProcessPool:
        raise SparError(
            "a worker process was killed",
            "most often memory ran out: set SPAR_WORKERS=1, or use fewer seeds in a group",
        ) from None
    finally:
        done.set()
        # After half a message of a killed worker, the listener would wait forever.
        listener.join(timeout=5)


def _share(seeds: list[Unit], workers: int) -> list[list[Unit]]:
    """Contiguous shares of nearly equal size."""
    n = max(1, min(workers, len(seeds)))
    bounds = [round(i * len(seeds) / n) for i in range(n + 1)]
    return [seeds[a:b] for a, b in itertools.pairwise(bounds)]


def _of_share(checkpoints: Checkpoints | None, share: list[Any]) -> Checkpoints | None:
    """The checkpoints of a share; with another division into shares, the work cannot be resumed and starts again."""
    return checkpoints and checkpoints.inside("seeds-" + "-".join(map(str, share)))


def _run_here(
    job: Job[Result],
    seeds: list[Any],
    on_message: Callable[[int, list[CurveRow]], None],
    checkpoints: Checkpoints | None,
) -> Result:
    before, stop = torch.get_num_threads(), threading.Event()
    torch.set_num_threads(1)
    try:
        with stop_on_signal(stop.set):
            reporter = _SendingReporter(
                seeds, checkpoints=checkpoints, stopping=stop.is_set, send=lambda message: on_message(*message)
            )
            result = job(seeds, reporter)
        reporter.flush()
        return result
    finally:
        torch.set_num_threads(before)


def _start_worker(outbox: Any, stop: Any) -> None:
    global _outbox, _stop
    keep_freed_memory()
    _outbox, _stop = outbox, stop
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent process ends, because no process would receive its result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(job: Job[Result], seeds: list[Any], checkpoints: Checkpoints | None) -> Result:
    # Count the time until the first checkpoint from now on, because another process may have another clock.
    reporter = _SendingReporter(
        seeds, checkpoints=checkpoints and checkpoints.anew(), stopping=_stop.is_set, send=_outbox.put
    )
    result = job(seeds, reporter)
    reporter.flush()
    return result


def _listen(outbox: Any, on_message: Callable[[int, list[CurveRow]], None], done: threading.Event) -> None:
    while True:
        try:
            on_message(*outbox.get(timeout=0.2))
        except queue.Empty:
            if done.is_set():
                return
        except (EOFError, OSError):
            return
