"""Roll a policy out in its environment, and keep every episode as a row.

The unit of work is a block: at most ``BLOCK`` episodes of one seed, which run in lock-step as a batch of fixed shape (a
finished episode keeps its row until all are done). Blocks follow from the settings alone. So the observations that a
policy gets together, and the rounding of its matrix products, do not depend on the number of workers.
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

from spar_core.data.environments.environment import close
from spar_core.data.environments.ids import bare
from spar_core.errors import SparError
from spar_core.evaluation.episode import RunningEpisode
from spar_core.settings import Settings
from spar_core.training.workers import Job, over_seeds

# Episodes that step together. A policy's time a step is mostly overhead, which a batch shares. With far larger blocks,
# a few seeds would give too few blocks for the workers.
BLOCK = 20
# Seconds that worker processes take to start: Python, Torch, the environments.
START_UP_SECONDS = 3.0
# Steps after which an episode must have ended, where the caller gives no limit.
MOST_STEPS = 1_000_000
MAZE = re.compile(r"(Point|Ant)Maze")


class EvaluationSettings(Settings):
    """Settings of the rollouts of final policies."""

    episodes: PositiveInt = Field(20, description="episodes a seed")
    maze_episodes: PositiveInt = Field(
        100, description="episodes a seed in mazes, where an episode says little more than success or failure"
    )
    # Far from every training seed and from the seeds of the built-in data.
    first_env_seed: NonNegativeInt = Field(
        1_000_000, description="first environment seed; no training uses this seed or a later one"
    )
    protocol: str = Field(
        "last", pattern="^last$", description="the policy after the last step; no checkpoint is ever selected"
    )

    def episodes_in(self, env_id: str) -> int:
        """Number of episodes a seed in an environment."""
        return self.maze_episodes if MAZE.match(bare(env_id)) else self.episodes


@dataclass(frozen=True)
class EpisodeResult:
    """One finished episode.

    Attributes:
        seed: training seed of the policy; None for the committee of a group's seeds.
        episode: number among the policy's episodes.
        env_seed: seed from which the environment started.
        total: undiscounted return, in the environment's rewards.
        length: environment steps.
        terminated: whether the episode ended in a terminal state.
        success: whether the task was solved; None where the environment does not say.
    """

    seed: int | None
    episode: int
    env_seed: int
    total: float
    length: int
    terminated: bool
    success: bool | None

    def row(self) -> dict[str, Any]:
        """The row of ``episodes.csv``. ``success`` is empty where the environment does not say."""
        values = asdict(self)
        values["return"] = values.pop("total")
        values["success"] = "" if self.success is None else self.success
        return values


@dataclass(frozen=True)
class Block:
    """Episodes of one policy that step together.

    Attributes:
        seed: training seed of the policy; None for the committee of a group's seeds.
        first_episode: number of the first episode; the others follow it.
        env_seeds: seed of each episode's environment.
    """

    seed: int | None
    first_episode: int
    env_seeds: tuple[int, ...]


def env_seeds(settings: EvaluationSettings, seed: int, episodes: int) -> list[int]:
    """Environment seeds of a training seed. They are the same for every rule, so that comparisons are paired."""
    first = settings.first_env_seed + seed * episodes
    return list(range(first, first + episodes))


def blocks(settings: EvaluationSettings, env_id: str, seeds: Sequence[int]) -> list[Block]:
    """All episodes of a group of seeds in blocks of nearly equal size, ordered by seed and episode.

    Those of the committee come last, in the environments of the group's first seed. A single seed is no committee.
    """
    episodes = settings.episodes_in(env_id)
    count = -(-episodes // BLOCK)
    bounds = [round(i * episodes / count) for i in range(count + 1)]
    policies: list[tuple[int | None, int]] = [(seed, seed) for seed in seeds]
    policies += [(None, seeds[0])] if len(seeds) > 1 else []
    return [
        Block(policy, start, tuple(env_seeds(settings, starts_of, episodes)[start:stop]))
        for policy, starts_of in policies
        for start, stop in itertools.pairwise(bounds)
    ]


def over_blocks(
    job: Job[list[EpisodeResult]],
    work: Sequence[Block],
    workers: int,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> list[EpisodeResult]:
    """Roll out some blocks, and give their episodes in the same order. The number of workers changes no result.

    Args:
        job: rolls out a share of the blocks (see :func:`spar_core.training.workers.over_seeds`).
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
    # Most policies are so cheap that the work is done before another process has started.
    worthwhile = left * (1 - 1 / workers) > START_UP_SECONDS
    return first + (run(rest, workers if worthwhile else 1) if rest else [])


def roll_out(
    act: Callable[[np.ndarray], np.ndarray],
    make_env: Callable[[], Any],
    block: Block,
    report: Callable[[int], None] = lambda steps: None,
    *,
    name: str = "the environment",
    limit: int = MOST_STEPS,
) -> list[EpisodeResult]:
    """Roll out the E episodes of a block, in lock-step.

    Args:
        act: takes raw observations [E, D] and gives actions [E, A], of the policy of the block's seed.
        make_env: makes one Gymnasium environment.
        block: names the episodes.
        report: called with the number of environment steps just taken.
        name: of the environment, for error lines.
        limit: steps after which every episode must have ended.

    Raises:
        SparError: the policy returned NaN, or the environment returned or raised something that cannot be counted (see
            :class:`~spar_core.evaluation.episode.RunningEpisode`).
    """
    whose = "the committee" if block.seed is None else f"training seed {block.seed}"
    envs: list[Any] = []
    try:
        for _ in block.env_seeds:
            envs.append(make_env())
        episodes = [
            RunningEpisode(env, s, limit, f"{name}, episode {number} of {whose} (environment seed {s})")
            for number, (env, s) in enumerate(zip(envs, block.env_seeds, strict=True), block.first_episode)
        ]
        shapes = sorted({episode.observation.shape for episode in episodes})
        if len(shapes) > 1:
            raise SparError(f"{name} gives observations of the shapes {shapes}", "one policy needs one shape")
        with np.errstate(over="ignore"):
            observations = np.stack([episode.observation for episode in episodes]).astype(np.float32)
        while active := [i for i, episode in enumerate(episodes) if not episode.ended]:
            if not np.isfinite(observations).all():
                for i in active:
                    episodes[i].refuse_infinite()
            actions = act(observations)
            if not np.isfinite(actions).all():
                policy = "the committee" if block.seed is None else f"the policy of seed {block.seed}"
                raise SparError(f"{policy} returned NaN", "its training diverged: see its curves")
            for i in active:
                episodes[i].step(actions[i])
                if not episodes[i].ended:
                    with np.errstate(over="ignore"):  # A number beyond float32 is refused in the next round.
                        observations[i] = episodes[i].observation
            report(len(active))
    finally:
        for env in envs:
            close(env)
    return [
        EpisodeResult(
            block.seed,
            block.first_episode + i,
            s,
            episodes[i].total,
            episodes[i].length,
            episodes[i].terminated,
            episodes[i].success,
        )
        for i, s in enumerate(block.env_seeds)
    ]
