"""The wrapper around OGBench's single tasks; :mod:`spar_core.data.environments.ogbench` says what it changes.

It has a module of its own because its base class needs Gymnasium, which the other module imports only where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

Observation = NDArray[np.floating]
Action = NDArray[np.floating]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings: OGBench makes its spaces anew at every access, in a lower precision than it asks for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class OgbenchTask(gymnasium.Wrapper[Observation, Action, Observation, Action], RecordConstructorArgs):
    """Rewards success alone, and keeps a state of NumPy's global generator of its own."""

    def __init__(self, env: gymnasium.Env[Observation, Action]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._state: Any = np.random.RandomState().get_state()
        with _quiet():
            self.action_space, self.observation_space = env.action_space, env.observation_space

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Within the block, NumPy's global generator is the environment's; nobody else notices."""
        outer = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outer)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same seed gives the same start. The goal that OGBench reports is left out."""
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
        with self._own_draws(), _quiet():
            observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action [A] within [-1, 1], and return Gymnasium's five values, the observation [D] first."""
        with self._own_draws():
            observation, _, terminated, truncated, info = self.env.step(action)
        success = bool(info["success"])
        return observation, float(success), bool(terminated), bool(truncated), {"success": success}
