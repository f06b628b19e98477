"""The wrapper around OGBench's single tasks; :mod:`spar_core.data.environments.ogbench` says what it changes.

It has a module of its own because its base class needs Gymnasium, which the other module imports only where it is used.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

# Closed environments of one task, to be used again: a model takes a second to compile, and a reset a hundredth. A used
# environment behaves as a new one from its reset on.
IDLE: dict[str, list[gymnasium.Env[Any, Any]]] = {}

Observation = NDArray[np.floating]
Action = NDArray[np.floating]


def make_task(maker: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """OGBench's own environment: one that was closed before, or a new one.

    Args:
        maker: OGBench's entry point.
        kwargs: its keyword arguments.
    """
    key = repr((maker, sorted(kwargs.items())))
    if IDLE.get(key):
        return IDLE[key].pop()
    for left in itertools.chain.from_iterable(IDLE.pop(other) for other in [*IDLE] if other != key):
        left.close()
    create: Any = gymnasium.envs.registration.load_env_creator(maker)
    made: gymnasium.Env[Any, Any] = create(**kwargs)
    if kwargs.get("render_mode") is None:
        vars(made)["idle_key"] = key
    return made


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
        self._open = True
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

    def close(self) -> None:
        """Keep OGBench's environment for the next of the same task, unless it draws pictures."""
        task = self.env.unwrapped
        key = vars(task).get("idle_key")
        if self._open and key is not None:
            IDLE.setdefault(key, []).append(task)
        elif self._open:
            super().close()
        self._open = False

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
