"""An environment as somebody else may have written it: plain, or with one fault in what it declares or returns."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

SIZE, ACTIONS, STEPS = 3, 2, 20
AT = 5  # the step at which a fault shows


def box(low: Any, high: Any, dtype: Any = np.float32) -> Box:
    return Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


SPACES = {
    "one value": box([-1, 2], [1, 2]),
    "one value each": box([1, 2], [1, 2]),
    "unbounded": Box(-np.inf, np.inf, (ACTIONS,), np.float32),
    "half bounded": box([-2, -np.inf], [1, 1]),
    "enormous": Box(-3e38, 3e38, (ACTIONS,), np.float32),
    "wide": Box(-1e30, 1e30, (ACTIONS,), np.float32),
    "float64": Box(-1, 1, (ACTIONS,), np.float64),
    "integers": Box(-3, 3, (ACTIONS,), np.int64),
    "matrix": Box(-1, 1, (ACTIONS, 1), np.float32),
    "discrete": Discrete(4),
}


class Toy(gymnasium.Env[Any, Any]):
    """Every step gives a reward of 1, and no episode ends by itself."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.at = fault, 0
        self.observation_space = Box(-np.inf, np.inf, (SIZE,), np.float32)
        self.action_space = SPACES.get(fault, Box(-1, 1, (ACTIONS,), np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        if self.fault == "raises at reset":
            raise RuntimeError("no licence\nin two lines")
        return np.full(SIZE, np.nan if self.fault == "nan at reset" else 0.0, np.float32), {}

    def step(self, action: Any) -> tuple[Any, ...]:
        assert np.isfinite(action).all()
        self.at += 1
        observation, reward, ended, info = np.full(SIZE, 0.1, np.float32), 1.0, False, {}
        returned = [observation, reward, ended, False, info]
        if self.at == AT and self.fault in ODD:
            place, value = ODD[self.fault]
            if isinstance(value, BaseException):
                raise value
            returned[place] = value
        return tuple(returned)


# What a fault puts at step AT into the place of observation, reward, terminated, truncated, or info.
ODD: dict[str, tuple[int, Any]] = {
    "raises": (0, RuntimeError("simulation became unstable\nsee the log")),
    "exits": (0, SystemExit(0)),
    "nan": (0, np.array([0, np.nan, 0], np.float32)),
    "too large": (0, np.array([0, 0, 1e300])),
    "scalar": (0, np.float32(0.1)),
    "row": (0, np.zeros((1, SIZE), np.float32)),
    "longer": (0, np.zeros(SIZE + 1, np.float32)),
    "text": (0, np.array(["0.1"] * SIZE)),
    "complex": (0, np.zeros(SIZE, complex)),
    "no observation": (0, None),
    "float64 observation": (0, np.full(SIZE, 0.1)),
    "list": (0, [0.1] * SIZE),
    "reward of shape (1,)": (1, np.array([1.0])),
    "integer reward": (1, np.int64(1)),
    "boolean reward": (1, True),
    "two rewards": (1, np.ones(2)),
    "nan reward": (1, float("nan")),
    "infinite reward": (1, np.float32(np.inf)),
    "text reward": (1, "1.0"),
    "no reward": (1, None),
    "flag of numpy": (2, np.bool_(True)),
    "flag of shape (1,)": (2, np.array([True])),
    "flag as a number": (3, 1),
    "two flags": (2, np.array([True, False])),
    "flag as text": (2, "False"),
    "no flag": (3, None),
    "success": (4, {"success": np.array([True])}),
    "success of numpy": (4, {"is_success": np.float32(1.0)}),
    "two successes": (4, {"success": np.array([True, False])}),
    "half a success": (4, {"success": 0.5}),
    "no info": (4, None),
}

gymnasium.register("Toy-v0", entry_point="tests.toy_envs:Toy", max_episode_steps=STEPS)
gymnasium.register("Toy-v1", entry_point="tests.toy_envs:Toy", max_episode_steps=STEPS)
gymnasium.register("ToyEndless-v0", entry_point="tests.toy_envs:Toy")
