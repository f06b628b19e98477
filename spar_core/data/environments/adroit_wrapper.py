"""What turns an Adroit environment of gymnasium-robotics into D4RL's: see ``spar_core.data.environments.adroit``.

Apart from that module because a wrapper's class needs Gymnasium when it is defined.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from spar_core.data.environments.adroit import DROPPED, PALM_WEIGHT, PEN_HEIGHT, palm_distance
from spar_core.errors import SparError


class AsInD4rl(gymnasium.Wrapper, RecordConstructorArgs):
    """D4RL's reward and termination, from the observation; everything else as it is."""

    def __init__(self, env: gymnasium.Env, family: str) -> None:
        """Wrap ``AdroitHandDoor``, ``-Hammer``, ``-Relocate`` or ``-Pen``, which ``family`` names.

        Raises:
            SparError: its rewards are sparse. D4RL has no such rewards.
        """
        RecordConstructorArgs.__init__(self, family=family)
        gymnasium.Wrapper.__init__(self, env)
        if env.unwrapped.sparse_reward:
            raise SparError("D4RL's Adroit rewards are dense", "leave 'reward_type' out of 'env_kwargs'")
        self._family = family

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action [A] within [-1, 1]. Gymnasium's five values, the observation [D] first."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        distance = palm_distance(self._family, observation)
        if distance is None:
            terminated = terminated or bool(observation[PEN_HEIGHT] < DROPPED)
        else:
            reward -= 2.0 * PALM_WEIGHT * distance  # it was added once
        return observation, float(reward), terminated, truncated, info
