"""An environment that breaks Gymnasium's contract as it is told to, and that knows what each breach plainly means."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

SIZE, ACTIONS = 3, 2

REFUSED = "refused"  # what a value means that cannot be counted

# --- what may be returned in each place, with its meaning ---

REWARDS: list[tuple[Any, Any]] = [
    *((kind(2), 2.0) for kind in (int, float, np.float16, np.float32, np.float64, np.int8, np.uint64, np.longdouble)),
    *((np.full(shape, -1.5), -1.5) for shape in ((), (1,), (1, 1))),
    (np.bool_(True), 1.0),
    (False, 0.0),
    ([0.5], 0.5),
    *((value, REFUSED) for value in (None, "1.0", b"1", {}, [], (), [[1.0], [2.0, 3.0]], object(), Decimal(1), 1j)),
    *((value, REFUSED) for value in (float("nan"), float("inf"), -np.float32(np.inf), np.array([np.nan]), 10**400)),
    *((np.zeros(shape), REFUSED) for shape in ((0,), (2,), (1, 2))),
    (np.array(["1.0"]), REFUSED),
    (np.array(None), REFUSED),
    (np.datetime64("2024-01-01"), REFUSED),
]
FLAGS: list[tuple[Any, Any]] = [
    *((kind(flag), flag) for flag in (False, True) for kind in (bool, np.bool_, int, float, np.int64, np.float32)),
    *((np.full(shape, flag), flag) for flag in (False, True) for shape in ((), (1,), (1, 1))),
    *((value, REFUSED) for value in (None, "False", "", [], (), {}, 2, -1, 0.5, float("nan"), np.array([True, False]))),
    *((value, REFUSED) for value in (object(), np.zeros(0), np.array("x"))),
]
INFOS: list[tuple[Any, Any]] = [
    ({}, None),
    ({"success": None}, None),
    ({"other": float("nan")}, None),
    *(({name: value}, meant) for name in ("success", "is_success") for value, meant in FLAGS if value is not None),
    *((value, REFUSED) for value in (None, [], "success", np.zeros(2))),
]
RAISED = [
    RuntimeError("simulation became unstable\nsee the log"),
    ValueError(),
    KeyError("qpos"),
    ZeroDivisionError("x" * 5000),
    AssertionError("\n\n"),
    NotImplementedError("sampling"),
    StopIteration(),
    SystemExit(0),
    MemoryError("no room"),
    UnicodeError("\udcff"),
]
WHOLE: list[tuple[Any, Any]] = [(value, REFUSED) for value in (None, 1.0, "abc", (), (1, 2, 3, 4), (1,) * 6, {})]


def observations(size: int, dtype: Any) -> list[tuple[Any, Any]]:
    """Values in the place of an observation of ``size`` numbers."""
    good = np.arange(size, dtype=np.float64)
    kinds = (np.float16, np.float32, np.float64, np.int8, np.uint32, np.int64, np.longdouble)
    not_finite = np.where(np.arange(size) == size - 1, 1.0, 0.0)
    return [
        *((good.astype(kind), None) for kind in (dtype, *kinds)),
        (good.tolist(), None),
        (np.arange(size) > 0, None),
        (good[::-1], None),
        *((not_finite * value, REFUSED) for value in (np.nan, np.inf, -np.inf, 1e300)),
        *((np.zeros(shape), REFUSED) for shape in ((), (size + 1,), (size - 1,), (1, size), (size, 1), (0,))),
        *((good.astype(kind), REFUSED) for kind in (complex, object, str, "M8[s]")),
        *((value, REFUSED) for value in (None, "abc", 1.0, {}, [], [[0.0], [0.0, 1.0]], {"position": good}, object())),
    ]


SPACES: dict[str, tuple[Any, bool]] = {
    "float32": (Box(-1, 1, (ACTIONS,), np.float32), True),
    "float64": (Box(-2, 1, (ACTIONS,), np.float64), True),
    "one value": (Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32)), True),
    "only one": (Box(np.full(ACTIONS, 0.5, np.float32), np.full(ACTIONS, 0.5, np.float32)), False),
    "unbounded": (Box(-np.inf, np.inf, (ACTIONS,), np.float32), False),
    "enormous": (Box(-3e38, 3e38, (ACTIONS,), np.float32), False),
    "beyond float32": (Box(-1e200, 1e200, (ACTIONS,), np.float64), False),
    "integers": (Box(-1, 1, (ACTIONS,), np.int32), False),
    "bytes": (Box(0, 255, (ACTIONS,), np.uint8), False),
    "matrix": (Box(-1, 1, (ACTIONS, 1), np.float32), False),
    "number": (Box(-1, 1, (), np.float32), False),
    "discrete": (Discrete(3), False),
    "several": (MultiDiscrete([2, 2]), False),
    "dictionary": (Dict(a=Box(-1, 1, (ACTIONS,), np.float32)), False),
}


@dataclass(frozen=True)
class Breach:
    """One value in a wrong place.

    Attributes:
        where: "make", "reset", "step" or "close".
        place: "observation", "reward", "terminated", "truncated", "info", "raise" or "whole" (all at once).
        value: what is returned or raised there.
        meant: what it plainly means; None for an observation that is one.
        step: at which step of an episode, from 1.
        episode: in which episode of the block, from 0; in every one if it is None.
    """

    where: str
    place: str
    value: Any
    meant: Any
    step: int
    episode: int | None


@dataclass(frozen=True)
class Plan:
    """What an environment declares and does.

    Attributes:
        actions: name of its action space in ``SPACES``.
        dictionary: whether its observations are dictionaries.
        dtype: of its observations.
        ends: step at which an episode terminates by itself, for each episode in turn; 0 for never.
        limit: its time limit; None for none.
        checked: whether Gymnasium's own checker of the first step is on.
        breaches: applied in order; a later one in the same place replaces an earlier one.
    """

    actions: str = "float32"
    dictionary: bool = False
    dtype: Any = np.float32
    ends: tuple[int, ...] = (0,)
    limit: int | None = 6
    checked: bool = False
    breaches: tuple[Breach, ...] = field(default=())

    def at(self, where: str, episode: int, step: int = 0) -> list[Breach]:
        """The breaches at a place of an episode."""
        return [
            one
            for one in self.breaches
            if one.where == where and one.episode in (None, episode) and (where != "step" or one.step == step)
        ]


class Odd(gymnasium.Env[Any, Any]):
    """Follows a plan. Its reset seeds count up by one from ``FIRST``, which tells an episode's number."""

    FIRST = 100

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        for breach in plan.at("make", -1):
            raise breach.value
        box = Box(-np.inf, np.inf, (SIZE,), plan.dtype)
        self.observation_space = Dict(goal=Box(-1, 1, (1,), plan.dtype), position=box) if plan.dictionary else box
        self.action_space = SPACES[plan.actions][0]

    def observed(self, value: Any) -> Any:
        return {"goal": np.zeros(1, self.plan.dtype), "position": value} if self.plan.dictionary else value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.taken = int(seed or 0) - self.FIRST, 0
        returned = [self.observed(np.zeros(SIZE, self.plan.dtype)), {}]
        for breach in self.plan.at("reset", self.episode):
            if breach.place == "raise":
                raise breach.value
            if breach.place == "whole":
                return breach.value
            returned[0] = self.observed(breach.value)
        return tuple(returned)

    def step(self, action: Any) -> Any:
        self.taken += 1
        ends = self.plan.ends[self.episode % len(self.plan.ends)]
        observation = self.observed(np.full(SIZE, 0.1, self.plan.dtype))
        returned = {
            "observation": observation,
            "reward": float(self.taken),
            "terminated": self.taken == ends,
            "truncated": False,
            "info": {},
        }
        for breach in self.plan.at("step", self.episode, self.taken):
            if breach.place == "raise":
                raise breach.value
            if breach.place == "whole":
                return breach.value
            returned[breach.place] = self.observed(breach.value) if breach.place == "observation" else breach.value
        return tuple(returned.values())

    def close(self) -> None:
        for breach in self.plan.at("close", getattr(self, "episode", 0)):
            raise breach.value


gymnasium.register("Odd-v0", entry_point="tests.odd_envs:Odd")
