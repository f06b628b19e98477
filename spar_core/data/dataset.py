"""A dataset in memory, as every training stage sees it: standardised, flat, and cut into episodes.

Each observation is stored once. An episode of T steps owns T + 1 observation rows, its last one included,
so the next observation of any step is the following row and can never belong to another episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spar_core.data.scaler import Scaler


@dataclass(frozen=True)
class Dataset:
    """N steps in E episodes, D-dimensional observations, A-dimensional actions.

    Attributes:
        observations: [N + E, D] float32, standardised by ``scaler``.
        actions: [N, A] float32, mapped to [-1, 1].
        rewards: [N] float32, as training sees them: logged, after the entry's ``reward_shift``.
        lengths: [E] int64, steps of each episode.
        terminated: [E] bool, whether the episode's last step ended in a terminal state. Where it is false
            the episode was cut (truncated), and values are bootstrapped through its end.
        heldout: [E] bool, episodes that no network is ever fitted to.
        scaler: the maps back to raw observations and actions.
        numbers: [E] int64, what each episode is called in the whole dataset; None where this is the whole.
        last_known: [E] bool, whether the observation after the episode's last step is known; None where all are.
            Where it is not, that row repeats the one before, and no value may be bootstrapped from it.
        logged_returns: [E] float64, sums of the rewards as they were logged; None where ``rewards`` are those.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    heldout: np.ndarray
    scaler: Scaler
    numbers: np.ndarray | None = None
    last_known: np.ndarray | None = None
    logged_returns: np.ndarray | None = None

    def of_episodes(self, keep: np.ndarray) -> Dataset:
        """The dataset of the episodes that ``keep`` [E] bool marks, in their order, with the same scaler."""
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
        )

    @property
    def n_steps(self) -> int:
        return len(self.actions)

    @property
    def observation_size(self) -> int:
        return self.observations.shape[1]

    @property
    def action_size(self) -> int:
        return self.actions.shape[1]

    @cached_property
    def episode(self) -> np.ndarray:
        """Episode number of each step, [N] int64."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def episode_number(self) -> np.ndarray:
        """What each step's episode is called in the whole dataset, [N] int64."""
        return self.episode if self.numbers is None else self.numbers[self.episode]

    @cached_property
    def starts(self) -> np.ndarray:
        """First step of each episode, [E] int64."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @cached_property
    def observation_index(self) -> np.ndarray:
        """Row of each step's observation, [N] int64; the next observation is the row after it."""
        return np.arange(self.n_steps) + self.episode

    @cached_property
    def step_terminated(self) -> np.ndarray:
        """Whether each step ended in a terminal state, [N] bool."""
        flags = np.zeros(self.n_steps, dtype=bool)
        flags[self.starts + self.lengths - 1] = self.terminated
        return flags

    @cached_property
    def train_steps(self) -> np.ndarray:
        """Steps of the training episodes, [n] int64."""
        return np.flatnonzero(~self.heldout[self.episode])

    @cached_property
    def cut_blind(self) -> np.ndarray:
        """Episodes that were cut, and whose observation after the cut is unknown, [E] bool."""
        known = np.ones(len(self.lengths), bool) if self.last_known is None else self.last_known
        return ~known & ~self.terminated

    @cached_property
    def bootstrap_steps(self) -> np.ndarray:
        """Training steps whose next observation is known or not needed: all that temporal differences may see, [n]."""
        blind = self.starts[self.cut_blind] + self.lengths[self.cut_blind] - 1
        return np.setdiff1d(self.train_steps, blind, assume_unique=True)

    @cached_property
    def heldout_steps(self) -> np.ndarray:
        """Steps of the held-out episodes, [n] int64."""
        return np.flatnonzero(self.heldout[self.episode])

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted return of each episode, in the units of ``rewards``, [E] float64."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    @property
    def returns_as_logged(self) -> np.ndarray:
        """What episodes are ranked by, [E] float64: a reward shift must not turn a long success into a failure."""
        return self.episode_returns if self.logged_returns is None else self.logged_returns
