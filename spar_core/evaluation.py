"""Roll a policy out in its environment, and keep every episode as a row.

The episodes of one seed run in lock-step, always as a batch of the same shape (a finished episode keeps its
row until all are done). So what a policy is asked, and how its matrix products round, never depends on how
many workers share the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from spar_core.errors import SparError
from spar_core.fqe import FQESettings
from spar_core.settings import Settings


class EvaluationSettings(Settings):
    """The ``evaluation`` section of ``params.yaml``."""

    episodes: PositiveInt = 20
    # Environment seeds start here: far from every training seed and from those of the built-in data.
    first_env_seed: NonNegativeInt = 1_000_000
    protocol: str = Field("last", pattern="^last$")
    # Fitted-Q evaluation, which stands in for rollouts where there is no environment.
    fqe: FQESettings = FQESettings()


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


def env_seeds(settings: EvaluationSettings, seed: int) -> list[int]:
    """Environment seeds of a training seed: the same for every rule, so that comparisons are paired."""
    first = settings.first_env_seed + seed * settings.episodes
    return list(range(first, first + settings.episodes))


def roll_out(
    act: Callable[[np.ndarray], np.ndarray],
    make_env: Callable[[], Any],
    seed: int,
    reset_seeds: Sequence[int],
    report: Callable[[int], None] = lambda steps: None,
) -> list[EpisodeResult]:
    """One episode for each reset seed, in lock-step.

    Args:
        act: raw observations [E, D] to actions [E, A].
        make_env: makes one Gymnasium environment.
        seed: training seed of the policy, for the rows.
        reset_seeds: E seeds for ``env.reset``.
        report: called with the number of environment steps just taken.

    Raises:
        SparError: the policy returned NaN.
    """
    envs = [make_env() for _ in reset_seeds]
    try:
        observations = np.stack(
            [np.asarray(env.reset(seed=s)[0], dtype=np.float32) for env, s in zip(envs, reset_seeds, strict=True)]
        )
        totals, lengths = np.zeros(len(envs)), np.zeros(len(envs), dtype=int)
        running, terminations = np.ones(len(envs), dtype=bool), np.zeros(len(envs), dtype=bool)
        successes: list[bool | None] = [None] * len(envs)
        while running.any():
            actions = act(observations)
            if not np.isfinite(actions).all():
                raise SparError(f"the policy of seed {seed} returned NaN", "its training diverged: see its curves")
            active = np.flatnonzero(running)
            for i in active:
                observation, reward, terminated, truncated, info = envs[i].step(actions[i])
                observations[i] = observation
                totals[i] += reward
                lengths[i] += 1
                success = info.get("success", info.get("is_success"))
                if success is not None:
                    successes[i] = bool(successes[i]) or bool(success)
                terminations[i] = terminated
                running[i] = not (terminated or truncated)
            report(len(active))
    finally:
        for env in envs:
            env.close()
    return [
        EpisodeResult(seed, i, s, float(totals[i]), int(lengths[i]), bool(terminations[i]), successes[i])
        for i, s in enumerate(reset_seeds)
    ]
