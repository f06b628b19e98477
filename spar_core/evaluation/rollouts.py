"""Roll a policy out in its environment, and keep every episode as a row.

The unit of work is a block: at most ``BLOCK`` episodes of one seed, which run in lock-step, always as a batch of the
same shape (a finished episode keeps its row until all are done). Blocks follow from the settings alone, so what a
policy is asked, and how its matrix products round, never depends on how many workers share the blocks.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from spar_core.errors import SparError
from spar_core.settings import Settings
from spar_core.training.workers import Job, over_seeds

# Episodes that step together. A policy's time a step is mostly overhead, which a batch shares; with far more of them,
# few seeds would make too few blocks for the workers.
BLOCK = 20
# What worker processes take to start: Python, Torch, the environments.
START_UP_SECONDS = 3.0
MAZE = re.compile(r"(Point|Ant)Maze")


class EvaluationSettings(Settings):
    """The ``evaluation`` section of ``params.yaml``."""

    episodes: PositiveInt = 20
    # In mazes an episode says little more than success or failure, so it takes more of them.
    maze_episodes: PositiveInt = 100
    # Environment seeds start here: far from every training seed and from those of the built-in data.
    first_env_seed: NonNegativeInt = 1_000_000
    protocol: str = Field("last", pattern="^last$")

    def episodes_in(self, env_id: str) -> int:
        """Episodes a seed in this environment."""
        return self.maze_episodes if MAZE.match(env_id) else self.episodes


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode: undiscounted raw return, steps, and how it ended."""

    seed: int
    episode: int
    env_seed: int
    total: float
    length: int
    terminated: bool
    success: bool | None

    def row(self) -> dict[str, Any]:
        """Columns of ``episodes.csv``; ``success`` is empty where the environment does not say."""
        values = asdict(self)
        values["return"] = values.pop("total")
        values["success"] = "" if self.success is None else self.success
        return values


@dataclass(frozen=True)
class Block:
    """Episodes of one training seed that step together: their numbers, and the seeds their environments start from."""

    seed: int
    first_episode: int
    env_seeds: tuple[int, ...]


def env_seeds(settings: EvaluationSettings, seed: int, episodes: int) -> list[int]:
    """Environment seeds of a training seed: the same for every rule, so that comparisons are paired."""
    first = settings.first_env_seed + seed * episodes
    return list(range(first, first + episodes))


def blocks(settings: EvaluationSettings, env_id: str, seeds: Sequence[int]) -> list[Block]:
    """All episodes of a group in blocks of nearly equal size, in seed and episode order."""
    episodes = settings.episodes_in(env_id)
    count = -(-episodes // BLOCK)
    bounds = [round(i * episodes / count) for i in range(count + 1)]
    return [
        Block(seed, start, tuple(env_seeds(settings, seed, episodes)[start:stop]))
        for seed in seeds
        for start, stop in itertools.pairwise(bounds)
    ]


def over_blocks(
    job: Job[list[EpisodeResult]],
    work: Sequence[Block],
    workers: int,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> list[EpisodeResult]:
    """All episodes of some blocks, in their order; the number of workers changes the time they take and nothing else.

    Args:
        job: rolls out the blocks of a share (see :func:`spar_core.training.workers.over_seeds`).
        work: the blocks.
        workers: processes at most.
        on_steps: called with the number of environment steps just taken.
    """

    def run(share: Sequence[Block], processes: int) -> list[EpisodeResult]:
        results = over_seeds(job, share, processes, lambda steps, rows: on_steps(steps))
        return [result for part in results for result in part]

    begun = time.perf_counter()
    first, rest = run(work[:1], 1), work[1:]
    left = (time.perf_counter() - begun) * len(rest)
    # Most policies are so cheap that all is done before another process has imported what it needs.
    worthwhile = left * (1 - 1 / workers) > START_UP_SECONDS
    return first + (run(rest, workers if worthwhile else 1) if rest else [])


def roll_out(
    act: Callable[[np.ndarray], np.ndarray],
    make_env: Callable[[], Any],
    block: Block,
    report: Callable[[int], None] = lambda steps: None,
) -> list[EpisodeResult]:
    """The E episodes of a block, in lock-step.

    Args:
        act: raw observations [E, D] to actions [E, A], of the policy of the block's seed.
        make_env: makes one Gymnasium environment.
        block: which episodes.
        report: called with the number of environment steps just taken.

    Raises:
        SparError: the policy returned NaN.
    """
    envs = [make_env() for _ in block.env_seeds]
    try:
        observations = np.stack(
            [np.asarray(env.reset(seed=s)[0], dtype=np.float32) for env, s in zip(envs, block.env_seeds, strict=True)]
        )
        totals, lengths = np.zeros(len(envs)), np.zeros(len(envs), dtype=int)
        running, terminations = np.ones(len(envs), dtype=bool), np.zeros(len(envs), dtype=bool)
        successes: list[bool | None] = [None] * len(envs)
        while running.any():
            actions = act(observations)
            if not np.isfinite(actions).all():
                raise SparError(
                    f"the policy of seed {block.seed} returned NaN", "its training diverged: see its curves"
                )
            active = np.flatnonzero(running)
            for i in active:
                observation, reward, terminated, truncated, info = envs[i].step(actions[i])
                totals[i] += reward
                lengths[i] += 1
                success = info.get("success", info.get("is_success"))
                if success is not None:
                    successes[i] = bool(successes[i]) or bool(success)
                terminations[i] = terminated
                running[i] = not (terminated or truncated)
                # An episode may end because its state is no number any more; nobody is asked about it.
                if running[i]:
                    observations[i] = observation
            report(len(active))
    finally:
        for env in envs:
            env.close()
    return [
        EpisodeResult(
            block.seed,
            block.first_episode + i,
            s,
            float(totals[i]),
            int(lengths[i]),
            bool(terminations[i]),
            successes[i],
        )
        for i, s in enumerate(block.env_seeds)
    ]
