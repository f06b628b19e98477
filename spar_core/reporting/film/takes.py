"""One episode of a policy, with frames at chosen steps.

The episode is run by :func:`spar_core.evaluation.rollouts.roll_out`, in an environment that draws itself on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from spar_core.errors import SparError
from spar_core.evaluation.episode import reward_of
from spar_core.evaluation.rollouts import Block, EpisodeResult, roll_out

Array = npt.NDArray[Any]
Act = Callable[[Array], Array]


def amount(total: float) -> str:
    """A return as text: whole from 100 on, and else with three significant digits, since some are far below 1."""
    return f"{total:.0f}" if abs(total) >= 99.95 else f"{total + 0.0:.3g}"


@dataclass
class Take:
    """An episode of T steps.

    Attributes:
        start: the first observation, [D].
        totals: return so far after 0, 1, ... T steps, [T + 1].
        frames: frames by step, each [H, W, 3] uint8.
        result: the episode's result, as in ``episodes.csv``; set at the end of the episode.
    """

    start: Array
    totals: list[float] = field(default_factory=lambda: [0.0])
    frames: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    result: EpisodeResult = field(init=False)

    @property
    def length(self) -> int:
        """Number of steps so far."""
        return len(self.totals) - 1

    def last(self, step: int) -> int:
        """The step itself, or the last step of a shorter episode."""
        return min(step, self.length)


class _Watched:
    """An environment that records its rewards, and draws itself at the wanted steps."""

    def __init__(self, env: Any, wanted: Collection[int]) -> None:
        self._env, self._wanted = env, wanted
        self.take: Take | None = None

    def reset(self, *, seed: int) -> tuple[Any, Any]:
        observation, info = self._env.reset(seed=seed)
        self.take = Take(np.array(observation))
        self._draw(self.take)
        return observation, info

    def step(self, action: Array) -> tuple[Any, ...]:
        assert self.take is not None
        outcome: tuple[Any, ...] = self._env.step(action)
        self.take.totals.append(self.take.totals[-1] + reward_of(outcome[1]))
        self._draw(self.take)
        return outcome

    def close(self) -> None:
        self._env.close()

    def _draw(self, take: Take) -> None:
        if take.length in self._wanted:
            take.frames[take.length] = np.array(self._env.render())


def take(act: Act, make_env: Callable[[], Any], block: Block, wanted: Collection[int] = ()) -> Take:
    """Run the first episode of a block and record it.

    Args:
        act: raw observations [E, D] to actions [E, A].
        make_env: makes the environment; it must be able to draw where a step is wanted.
        block: the policy's seed, and E environment seeds, of which the first is used. The policy still acts on batches
            of E observations, since the rounding of its matrix products depends on the batch size, and the episode on
            the rounding.
        wanted: steps to draw.

    Raises:
        SparError: the policy returned NaN.
    """
    watched: list[_Watched] = []

    def make() -> _Watched:
        watched.append(_Watched(make_env(), wanted))
        return watched[-1]

    def act_as_evaluated(observations: Array) -> Array:
        return act(np.repeat(observations, len(block.env_seeds), axis=0))[:1]

    first = Block(block.seed, block.first_episode, block.env_seeds[:1])
    (result,) = roll_out(act_as_evaluated, make, first)
    found = watched[0].take
    assert found is not None
    found.result = result
    return found


def check_same(plain: Take, drawn: Take, name: str) -> None:
    """Check that drawing did not change an episode.

    Raises:
        SparError: the rewards differ.
    """
    if plain.totals != drawn.totals:
        raise SparError(f"the episode of '{name}' differs when it is drawn, so no picture would show what was measured")


def check_start(takes: Collection[Take]) -> None:
    """Check that all episodes start in the same state.

    Raises:
        SparError: their first observations differ.
    """
    first, *others = takes
    if any(not np.array_equal(first.start, other.start) for other in others):
        raise SparError("the episodes start in different states", "the environment does not heed the seed of its reset")
