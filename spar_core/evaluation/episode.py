"""One episode in an environment: everything that the environment returns is checked and made plain.

An environment may come from anybody and return anything. What is plainly meant is converted, such as a reward of shape
(1,) or a flag of NumPy. Anything else ends the evaluation with a line that says where, because an episode that is left
out, or counted with a wrong return, would change the result without a word.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spar_core.data.environments.environment import SET_LIMIT
from spar_core.data.names import NUMBERS
from spar_core.errors import SparError, reason_of

BOOLEANS = (bool, np.bool_)
HINT = "nothing of this evaluation is kept; mend the environment, or its arguments in the dataset's entry"


class _Odd(SparError):
    """The environment returned something that cannot be counted."""


class RunningEpisode:
    """An episode that is stepped until it ends.

    Attributes:
        observation: the last one before the end, [D] of any type of numbers; :meth:`refuse_infinite` checks them.
        total: undiscounted return so far.
        length: steps so far.
        ended: whether the episode has ended.
        terminated: whether it ended in a terminal state.
        success: whether the task was solved at any step; None where the environment does not say.
    """

    def __init__(self, env: Any, env_seed: int, limit: int, where: str) -> None:
        """Reset the environment.

        Args:
            env: a Gymnasium environment whose observations are vectors [D].
            env_seed: seed of the reset.
            limit: steps after which the episode must have ended.
            where: names environment and episode in error lines.

        Raises:
            SparError: the environment raised an exception, or did not return an observation [D].
        """
        self._env, self._limit, self._where = env, limit, where
        self.total, self.length = 0.0, 0
        self.ended = self.terminated = False
        self.success: bool | None = None
        try:
            returned = env.reset(seed=env_seed)
        except (Exception, SystemExit) as error:  # An environment may raise anything.
            raise self._raised(error) from None
        self._shape: tuple[int, ...] | None = getattr(getattr(env, "observation_space", None), "shape", None)
        try:
            observation, _ = _parts(returned, 2, "an observation and a dictionary")
            self.observation = self._vector(observation)
        except _Odd as error:
            raise self._error(str(error)) from None

    def step(self, action: NDArray[np.float32]) -> None:
        """Take an action [A], and count the step.

        Raises:
            SparError: the environment raised an exception or returned something that cannot be counted, or the episode
                has not ended at its limit.
        """
        self.length += 1
        try:
            returned = self._env.step(action)
        except (Exception, SystemExit) as error:
            raise self._raised(error) from None
        try:
            self._count(*_parts(returned, 5, "observation, reward, terminated, truncated and info"))
        except _Odd as error:
            raise self._error(str(error)) from None
        if not self.ended and self.length >= self._limit:
            raise SparError(f"{self._where} has not ended after {self._limit} steps", SET_LIMIT)

    def refuse_infinite(self) -> None:
        """Make sure that the observation is finite; callers check many at a time, which is faster.

        Raises:
            SparError: it holds NaN, infinity, or a number beyond float32.
        """
        with np.errstate(over="ignore"):
            bad = np.flatnonzero(~np.isfinite(self.observation.astype(np.float32)))
        if len(bad):
            raise self._error(f"the observation is {self.observation[bad[0]]} in dimension {bad[0]}")

    def _count(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        self.total += reward_of(reward)
        self.terminated = _flag(terminated, "'terminated'")
        self.ended = _flag(truncated, "'truncated'") or self.terminated
        if not isinstance(info, Mapping):
            raise _Odd(f"'info' is {_described(info)}, not a dictionary")
        success = info.get("success", info.get("is_success"))
        if success is not None:
            self.success = bool(self.success) | _flag(success, "'success' in its info")
        # A policy never sees the observation after the last step, so that it may hold anything.
        if not self.ended:
            self.observation = self._vector(observation)
        elif not math.isfinite(self.total):
            raise _Odd("the sum of its rewards is not finite")

    def _vector(self, observation: Any) -> NDArray[Any]:
        array = _array(observation)
        if self._shape is None and array.ndim == 1:
            self._shape = array.shape
        if array.dtype.kind not in NUMBERS or array.shape != self._shape:
            wanted = "" if self._shape is None else f" of shape {self._shape}"
            raise _Odd(f"the observation is {_described(observation, array)}, not a vector of numbers{wanted}")
        return array

    def _raised(self, error: BaseException) -> SparError:
        own = isinstance(error, SparError)
        return self._error(str(error) if own else f"the environment raised {reason_of(error)}")

    def _error(self, what: str) -> SparError:
        place = f"step {self.length}" if self.length else "its reset"
        return SparError(f"{self._where}, {place}: {what}", HINT)


def _parts(returned: Any, count: int, names: str) -> Any:
    if not isinstance(returned, tuple) or len(returned) != count:
        raise _Odd(f"the environment returned {_described(returned)}, not a tuple of {names}")
    return returned


def reward_of(value: Any) -> float:
    """A reward that an environment returned, as a number.

    Raises:
        SparError: it is no finite number.
    """
    if not isinstance(value, float):
        array = _array(value)
        if array.size != 1 or array.dtype.kind not in NUMBERS:
            raise _Odd(f"the reward is {_described(value, array)}, not a number")
        value = array.item()
    reward = float(value)
    if not math.isfinite(reward):
        raise _Odd(f"the reward is {reward}")
    return reward


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, BOOLEANS):
        return bool(value)
    array = _array(value)
    if array.size != 1 or array.dtype.kind not in NUMBERS or array.item() not in (0, 1):
        raise _Odd(f"{name} is {_described(value, array)}, neither true nor false")
    return bool(array.item())


def _array(value: Any) -> NDArray[Any]:
    """The value as an array; what is none becomes one of objects, which no check accepts."""
    try:
        return np.asarray(value)
    except Exception:  # A value may define its own conversion.
        return np.empty((), object)


def _described(value: Any, array: NDArray[Any] | None = None) -> str:
    if array is not None and array.dtype.kind in NUMBERS and array.ndim > 0:
        return f"an array of shape {array.shape} and type {array.dtype}"
    return f"{reprlib.repr(value)} ({type(value).__name__})"
