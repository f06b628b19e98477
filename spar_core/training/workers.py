"""Work on the seeds of a group in several processes, each of one torch thread.

Threads inside a process fight over a busy machine; processes side by side do not. What each seed's weights
are does not depend on how the seeds are shared out (see ``spar_core.training.networks``).
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
# What a job is given: seeds, or pieces of work of them such as blocks of episodes.
Unit = TypeVar("Unit")
Job = Callable[[Sequence[Any], Reporter], Result]

# Units of work between two messages of a worker: often enough for a smooth bar, rare enough to cost nothing.
MESSAGE_EVERY = 50
_outbox: Any = None
_stop: Any = None


@dataclass(kw_only=True)
class _SendingReporter(Reporter):
    """Sends progress and curve rows through ``send`` as they come."""

    send: Callable[[tuple[int, list[CurveRow]]], None]
    _steps: int = 0
    _sent: int = 0

    def advance(self, steps: int) -> None:
        if self.stopping():
            raise Interrupted("stopped before the work was done", "run the same command again")
        self._steps += steps
        if self._steps >= MESSAGE_EVERY:
            self.flush()

    def flush(self) -> None:
        self.send((self._steps, self.rows[self._sent :]))
        self._steps, self._sent = 0, len(self.rows)


def over_seeds(
    job: Job[Result],
    seeds: Sequence[Unit],
    workers: int,
    on_message: Callable[[int, list[CurveRow]], None] = lambda steps, rows: None,
    checkpoints: Checkpoints | None = None,
) -> list[Result]:
    """Run ``job(seeds, reporter)`` over shares of the seeds; results come back in seed order, one a share.

    Args:
        job: a picklable callable (a module-level function or an instance of a module-level class).
        seeds: the group's seeds, or pieces of work of them.
        workers: processes at most; with one, the job runs in this process.
        on_message: called in this process with (units of work just done, new curve rows).
        checkpoints: where loops keep theirs, a folder a share below it; None where they keep none.

    Raises:
        SparError: a worker was killed, most often for want of memory.
        Interrupted: this process was sent SIGINT (Ctrl-C) or SIGTERM, and the workers stopped at a step's end. A
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
        # Leaving the pool waits for the workers to end, and a worker ends once its messages are out.
        with (
            stop_on_signal(stop.set),
            ProcessPoolExecutor(len(shares), context, _start_worker, (outbox, stop)) as pool,
        ):
            try:
                # A terminal sends Ctrl-C to all processes of a command; workers are told to stop by this one alone.
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
            "most often memory ran out: set SPAR_WORKERS=1 or use fewer seeds a group",
        ) from None
    finally:
        done.set()
        # A killed worker may leave half a message, on which the listener would wait for ever.
        listener.join(timeout=5)


def _share(seeds: list[Unit], workers: int) -> list[list[Unit]]:
    """Contiguous shares of nearly equal size."""
    n = max(1, min(workers, len(seeds)))
    bounds = [round(i * len(seeds) / n) for i in range(n + 1)]
    return [seeds[a:b] for a, b in itertools.pairwise(bounds)]


def _of_share(checkpoints: Checkpoints | None, share: list[Any]) -> Checkpoints | None:
    """Shared out otherwise, the work starts anew: a checkpoint holds the seeds of one share."""
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
    """End this process when its parent is gone: it would go on for minutes, for no one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(job: Job[Result], seeds: list[Any], checkpoints: Checkpoints | None) -> Result:
    # Time is counted from here on: the clock of another process may be another one.
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
