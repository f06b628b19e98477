"""Roll out episodes in worker processes; the result does not depend on the number of workers or on the processor.

An episode depends only on the job and on its own number, and episodes are kept in the order of their numbers.

Small differences between processors would grow without bound in a simulation. So a policy uses only arithmetic that
IEEE 754 fixes (float64, no BLAS), and rounds its action to a grid before the environment sees the action. The last bits
of an exponential or a hyperbolic tangent, which differ between processors, then disappear. The sines of
MuJoCo come from the C library, whose results differ between x86-64 processors with and without FMA, and between
versions. So the data are the same on processors with FMA (docs/data.md).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spar_core.data.episodes import Episode

if TYPE_CHECKING:
    import gymnasium

LARGEST_BLOCK = 64  # largest number of episodes that are handed to the workers at a time
# Spacing of the actions of behaviour policies, in units of the action box [-1, 1]. It is far above rounding errors, so
# that two processors round an action differently with negligible probability, and far below the policies' noise.
GRID = 2.0**-12
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Roll = Callable[[int], Episode]


class Job(Protocol):
    """The work that is sent to each worker; it must be picklable."""

    def prepare(self) -> Roll:
        """Load what the work needs, once in each worker, and return a function that rolls out an episode by number."""


def collect_episodes(
    job: Job, *, steps: int, workers: int = 1, report: Callable[[int, int], None] | None = None
) -> list[Episode]:
    """Roll out the episodes 0, 1, 2, ... until there are exactly ``steps`` steps; the last episode is cut to fit.

    Args:
        job: rolls out an episode by its number.
        steps: environment steps in all.
        workers: processes, one thread each.
        report: called with (steps so far, steps in all) after each episode.

    Raises:
        SparError: an episode raised it in a worker. An error in ``prepare`` breaks the pool instead, so callers must
            check beforehand that ``prepare`` will work.
    """
    episodes: list[Episode] = []
    done = 0
    # Even a single worker is a process of its own, because only there can BLAS be limited to one thread.
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


def run_episode(
    env: gymnasium.Env[Any, Any],
    first: NDArray[np.floating],
    act: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    limit: int,
) -> Episode:
    """Step an environment that was just reset until its episode ends.

    Args:
        env: environment with vector observations.
        first: the observation [D] that ``reset`` returned.
        act: maps an observation [D] to an action [A] within the bounds.
        limit: number of steps after which the episode is cut, for environments without a time limit.
    """
    observations, rewards = [np.asarray(first, dtype=np.float32)], []
    actions: list[NDArray[np.float32]] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < limit:
        actions.append(act(observations[-1]))
        raw, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(np.asarray(raw, dtype=np.float32))
        rewards.append(reward)
    return Episode(np.stack(observations), np.stack(actions), np.asarray(rewards, dtype=np.float32), bool(terminated))


def on_grid(actions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest multiples of :data:`GRID`."""
    rounded: NDArray[np.float64] = np.rint(actions / GRID) * GRID
    return rounded


def _block(done: int, episodes: int, steps: int, workers: int) -> int:
    """Number of episodes to ask for next: enough for the remaining steps at the mean length so far."""
    needed = workers if episodes == 0 else -(-(steps - done) * episodes // done)
    return max(1, min(needed, LARGEST_BLOCK))


def _cut(episode: Episode, limit: int) -> Episode:
    """The first ``limit`` steps of an episode; if that cuts it, the result is not terminated."""
    if episode.steps <= limit:
        return episode
    return Episode(episode.observations[: limit + 1], episode.actions[:limit], episode.rewards[:limit], False)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Limit BLAS to one thread in processes started in this block; it reads the variables when it is loaded."""
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


# Rolls out episodes in this process, if it is a worker.
_worker: Roll | None = None


def _start(job: Any) -> None:
    global _worker
    _worker = job.prepare()


def _roll(number: int) -> Episode:
    assert _worker is not None
    return _worker(number)
