"""The in-memory dataset that every training stage uses: flat arrays, standardised, divided into episodes.

Each observation is stored once. An episode of T steps owns T + 1 rows of observations, including the one after its last
step. So the next observation of a step is the following row, and never belongs to another episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spar_core.data.scaler import Scaler


@dataclass(frozen=True)
class Dataset:
    """N steps in E episodes, D-dimensional observations, A-dimensional actions.

    Attributes:
        observations: [N + E, D] float32, standardised by ``scaler``.
        actions: [N, A] float32, mapped to [-1, 1].
        rewards: [N] float32, the rewards of training: the logged ones after the entry's ``reward_shift``.
        lengths: [E] int64, steps of each episode.
        terminated: [E] bool, whether the episode's last step ended in a terminal state. If not, the episode was cut
            (truncated), and values are bootstrapped from its last observation.
        heldout: [E] bool, episodes that no network is ever fitted to.
        scaler: maps between raw and standardised observations, and between raw actions and [-1, 1].
        numbers: [E] int64, the number of each episode in the whole dataset; None if this is the whole dataset.
        last_known: [E] bool, whether the observation after the episode's last step is known; None if all are. An
            unknown one is a copy of the row before it, and no value may be bootstrapped from it.
        logged_returns: [E] float64, returns from the rewards as they were logged; None if ``rewards`` are those.
        stops: [N] bool, steps after which no reward counts for a value although the episode goes on; None if there are
            none. OGBench's data have them: a recording goes on after its task was done.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    heldout: NDArray[np.bool_]
    scaler: Scaler
    numbers: NDArray[np.int64] | None = None
    last_known: NDArray[np.bool_] | None = None
    logged_returns: NDArray[np.float64] | None = None
    stops: NDArray[np.bool_] | None = None

    def of_episodes(self, keep: NDArray[np.bool_]) -> Dataset:
        """A dataset of the episodes that ``keep`` [E] marks, in their order, with the same scaler."""
        rows = np.repeat(keep, self.lengths + 1)
        steps = np.repeat(keep, self.lengths)
        return Dataset(
            self.observations[rows],
            self.actions[steps],
            self.rewards[steps],
            self.lengths[keep],
            self.terminated[keep],
            self.heldout[keep],
            self.scaler,
            (np.arange(len(keep)) if self.numbers is None else self.numbers)[keep],
            None if self.last_known is None else self.last_known[keep],
            None if self.logged_returns is None else self.logged_returns[keep],
            None if self.stops is None else self.stops[steps],
        )

    @property
    def n_steps(self) -> int:
        """N."""
        return len(self.actions)

    @property
    def observation_size(self) -> int:
        """D."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """A."""
        return int(self.actions.shape[1])

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """Row of each step's episode in ``lengths``, [N]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def episode_number(self) -> NDArray[np.int64]:
        """Number of each step's episode in the whole dataset, [N]."""
        return self.episode if self.numbers is None else self.numbers[self.episode]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First step of each episode, [E]."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @cached_property
    def observation_index(self) -> NDArray[np.int64]:
        """Row of each step's observation, [N]; the next row is the next observation."""
        return np.arange(self.n_steps) + self.episode

    @cached_property
    def step_terminated(self) -> NDArray[np.bool_]:
        """Whether no reward after a step counts for its value, [N]: the step ended in a terminal state, or it stops."""
        flags = np.zeros(self.n_steps, dtype=bool) if self.stops is None else self.stops.copy()
        flags[self.starts + self.lengths - 1] = self.terminated
        return flags

    @cached_property
    def to_termination(self) -> NDArray[np.int64]:
        """Steps from each step to the next one of its episode after which no reward counts, [N]; 0 at that step.

        Where the episode holds no further one, the number exceeds the length of every episode.
        """
        here = np.arange(self.n_steps)
        ends = np.where(self.step_terminated, here, 2 * self.n_steps)
        following = np.minimum.accumulate(ends[::-1])[::-1]
        inside = following < (self.starts + self.lengths)[self.episode]
        return np.where(inside, following - here, self.n_steps)

    @cached_property
    def train_steps(self) -> NDArray[np.int64]:
        """Steps of the training episodes, [n]."""
        return np.flatnonzero(~self.heldout[self.episode])

    @cached_property
    def cut_blind(self) -> NDArray[np.bool_]:
        """Which episodes were cut before an unknown observation, [E]."""
        known = np.ones(len(self.lengths), bool) if self.last_known is None else self.last_known
        return ~known & ~self.terminated

    @cached_property
    def bootstrap_steps(self) -> NDArray[np.int64]:
        """Training steps whose next observation is known or terminal, [n]; temporal differences use these alone."""
        blind = self.starts[self.cut_blind] + self.lengths[self.cut_blind] - 1
        return np.setdiff1d(self.train_steps, blind, assume_unique=True)

    @cached_property
    def heldout_steps(self) -> NDArray[np.int64]:
        """Steps of the held-out episodes, [n]."""
        return np.flatnonzero(self.heldout[self.episode])

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode in the units of ``rewards``, [E]."""
        returns: NDArray[np.float64] = np.add.reduceat(self.rewards.astype(np.float64), self.starts)
        return returns

    @property
    def returns_as_logged(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode from the logged rewards, [E].

        Episodes are ranked by these returns, because a reward shift may give a long success a lower return than a
        failure.
        """
        return self.episode_returns if self.logged_returns is None else self.logged_returns
