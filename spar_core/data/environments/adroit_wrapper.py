"""The wrapper that turns an Adroit environment of gymnasium-robotics into D4RL's.

:mod:`spar_core.data.environments.adroit` lists the differences. The wrapper has a module of its own because its base
class needs Gymnasium, which the other module imports only where it is used.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from spar_core.data.environments.adroit import DROPPED, PALM_WEIGHT, PEN_HEIGHT, palm_distance
from spar_core.errors import SparError

Observation = NDArray[np.float64]
Action = NDArray[np.floating]


class AsInD4rl(gymnasium.Wrapper[Observation, Action, Observation, Action], RecordConstructorArgs):
    """Computes D4RL's reward and termination from the observation; the rest of the environment is unchanged."""

    def __init__(self, env: gymnasium.Env[Observation, Action], family: str) -> None:
        """Wrap the environment that ``family`` names.

        Args:
            env: the environment of gymnasium-robotics.
            family: ``AdroitHandDoor``, ``AdroitHandHammer``, ``AdroitHandRelocate`` or ``AdroitHandPen``.

        Raises:
            SparError: the environment has sparse rewards, which D4RL does not have.
        """
        RecordConstructorArgs.__init__(self, family=family)
        gymnasium.Wrapper.__init__(self, env)
        task: Any = env.unwrapped
        if task.sparse_reward:
            raise SparError(
                f"{family} was made with sparse rewards, but D4RL's Adroit rewards are dense",
                "remove 'reward_type' from 'env_kwargs' in the dataset's entry",
            )
        self._family = family

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action [A] within [-1, 1], and return Gymnasium's five values, the observation [D] first."""
        reward: Any
        observation, reward, terminated, truncated, info = self.env.step(action)
        distance = palm_distance(self._family, observation)
        if distance is None:
            terminated = terminated or bool(observation[PEN_HEIGHT] < DROPPED)
        else:
            reward -= 2.0 * PALM_WEIGHT * distance  # twice: once to cancel the term that was added, once to subtract it
        return observation, float(reward), terminated, truncated, info
