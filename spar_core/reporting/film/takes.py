"""One episode of a policy, with pictures of it at chosen steps.

The episode is rolled out by :func:`spar_core.evaluation.rollouts.roll_out`, in an environment whose pictures are taken
while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spar_core.errors import SparError
from spar_core.evaluation.rollouts import Block, EpisodeResult, roll_out

Act = Callable[[np.ndarray], np.ndarray]


@dataclass
class Take:
    """An episode of T steps.

    Attributes:
        start: the first observation, [D].
        totals: return so far after 0, 1, ... T steps, [T + 1].
        frames: pictures by step, [H, W, 3] uint8.
        result: the same episode as a row of ``episodes.csv``.
    """

    start: np.ndarray
    totals: list[float] = field(default_factory=lambda: [0.0])
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    result: EpisodeResult | None = None

    @property
    def length(self) -> int:
        return len(self.totals) - 1

    def last(self, step: int) -> int:
        """The step itself, or the last one where the episode was over by then."""
        return min(step, self.length)


class _Watched:
    """An environment that notes rewards, and draws itself at the wanted steps."""

    def __init__(self, env: Any, wanted: Collection[int]) -> None:
        self._env, self._wanted = env, wanted
        self.take: Take | None = None

    def reset(self, *, seed: int) -> tuple[Any, Any]:
        observation, info = self._env.reset(seed=seed)
        self.take = Take(np.array(observation))
        self._draw(self.take)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        assert self.take is not None
        outcome = self._env.step(action)
        self.take.totals.append(self.take.totals[-1] + float(outcome[1]))
        self._draw(self.take)
        return outcome

    def close(self) -> None:
        self._env.close()

    def _draw(self, take: Take) -> None:
        if take.length in self._wanted:
            take.frames[take.length] = np.array(self._env.render())


def take(act: Act, make_env: Callable[[], Any], block: Block, wanted: Collection[int] = ()) -> Take:
    """Run the first episode of a block and watch it.

    Args:
        act: raw observations [E, D] to actions [E, A].
        make_env: makes the environment; it must be able to draw where a step is wanted.
        block: the policy's seed, and E environment seeds, of which the first is used. The policy is asked in batches
            of E all the same: how its matrix products round depends on that, and where a body runs to on the rounding.
        wanted: steps to picture.

    Raises:
        SparError: the policy returned NaN.
    """
    watched: list[_Watched] = []

    def make() -> _Watched:
        watched.append(_Watched(make_env(), wanted))
        return watched[-1]

    def act_as_evaluated(observations: np.ndarray) -> np.ndarray:
        return act(np.repeat(observations, len(block.env_seeds), axis=0))[:1]

    first = Block(block.seed, block.first_episode, block.env_seeds[:1])
    (result,) = roll_out(act_as_evaluated, make, first)
    found = watched[0].take
    assert found is not None
    found.result = result
    return found


def check_same(plain: Take, drawn: Take, name: str) -> None:
    """Make sure that an episode did not change because it was drawn.

    Raises:
        SparError: it did.
    """
    if plain.totals != drawn.totals:
        raise SparError(f"the episode of '{name}' differs when it is drawn, so no picture would show what was measured")


def check_start(takes: Collection[Take]) -> None:
    """Make sure that episodes start in one state.

    Raises:
        SparError: they do not.
    """
    first, *others = takes
    if any(not np.array_equal(first.start, other.start) for other in others):
        raise SparError("the episodes start in different states", "the environment does not heed the seed of its reset")
