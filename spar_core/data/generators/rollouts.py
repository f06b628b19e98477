"""Episodes rolled out by worker processes, the same whatever their number.

An episode depends on the job and on its own number alone, and episodes are kept in the order of their
numbers. So any number of workers gives the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spar_core.data.episodes import Episode

if TYPE_CHECKING:
    import gymnasium

LARGEST_BLOCK = 64  # episodes handed to the workers at a time
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Roll = Callable[[int], Episode]


class Job(Protocol):
    """What a worker is sent; it is pickled."""

    def prepare(self) -> Roll:
        """Called once in each worker: load what is needed, and return what rolls out episode ``number``."""


def collect_episodes(
    job: Job, *, steps: int, workers: int = 1, report: Callable[[int, int], None] | None = None
) -> list[Episode]:
    """Roll out the episodes 0, 1, 2, ... until there are exactly ``steps`` steps; the last is cut to fit.

    Args:
        job: rolls out an episode by its number.
        steps: environment steps in all.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Raises:
        SparError: whatever the job raises in a worker's episode; what ``prepare`` raises breaks the pool, so
            callers check beforehand that it works.
    """
    episodes: list[Episode] = []
    done = 0
    # A pool even for one worker: there alone can BLAS be held to one thread, which its sums depend on.
    spawn = multiprocessing.get_context("spawn")
    with _single_threaded(), ProcessPoolExecutor(workers, spawn, _start, (job,)) as pool:
        while done < steps:
            block = _block(done, len(episodes), steps, workers)
            for episode in pool.map(_roll, range(len(episodes), len(episodes) + block)):
                episodes.append(_cut(episode, steps - done))
                done += episodes[-1].steps
                if report is not None:
                    report(done, steps)
                if done == steps:
                    break
    return episodes


def run_episode(env: gymnasium.Env, first: np.ndarray, act: Callable[[np.ndarray], np.ndarray], limit: int) -> Episode:
    """Step an environment that was just reset until its episode ends, or for ``limit`` steps.

    Args:
        env: environment with vector observations.
        first: the observation [D] that ``reset`` returned.
        act: observation [D] float32 to action [A] float32 within the bounds.
        limit: most steps; no episode need be longer than the whole dataset, even without a time limit.
    """
    observations, actions, rewards = [np.asarray(first, dtype=np.float32)], [], []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < limit:
        actions.append(act(observations[-1]))
        raw, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(np.asarray(raw, dtype=np.float32))
        rewards.append(reward)
    return Episode(np.stack(observations), np.stack(actions), np.asarray(rewards, dtype=np.float32), bool(terminated))


def _block(done: int, episodes: int, steps: int, workers: int) -> int:
    """Episodes to ask for next: enough for the rest by the mean length so far, little beyond it."""
    needed = workers if episodes == 0 else -(-(steps - done) * episodes // done)
    return max(1, min(needed, LARGEST_BLOCK))


def _cut(episode: Episode, limit: int) -> Episode:
    """The first ``limit`` steps; an episode that loses any is no longer terminated."""
    if episode.steps <= limit:
        return episode
    return Episode(episode.observations[: limit + 1], episode.actions[:limit], episode.rewards[:limit], False)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in this block see one thread; BLAS reads the variables when it is loaded."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# State of a worker process.
_worker: Roll | None = None


def _start(job: Any) -> None:
    global _worker
    _worker = job.prepare()


def _roll(number: int) -> Episode:
    assert _worker is not None
    return _worker(number)
