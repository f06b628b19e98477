"""Do observations and actions belong together? An action should explain the change that follows it better than others.

A logger that writes an action one row too early or too late gives a dataset that trains without an error and clones a
policy that never acted. For each offset k, a ridge regression explains the change of the observation by the observation
and the action k steps later,

.. math:: o_{t+1} - o_t \\approx W_k [o_t, a_{t+k}, 1],

and R^2_k is the share of variance that it explains on steps that it was not fitted to. Where R^2_k is highest at k = 0,
rows are aligned. The regression is linear and looks at one step, so a small lead of another offset says nothing: where
an action works with a delay (position targets of a slow arm, say), neighbours explain the change equally well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spar_core.data.episodes import Episode

OFFSETS = (-2, -1, 0, 1, 2)
STEPS = 20_000  # enough for a few dozen coefficients a dimension
FEWEST = 200  # below this, R^2 is mostly chance
RIDGE = 1e-6  # per step; columns that are copies of one another stay solvable
# How much more variance another offset must explain to count as misaligned. On locomotion data the right offset leads
# by 0.12 to 0.2; on demonstrations of a hand that opens a door, neighbours come within 0.001 of it.
LEAD = 0.03


@dataclass(frozen=True)
class Alignment:
    """Variance of the change of observations that actions explain, by offset.

    Attributes:
        explained: R^2 on steps that the regression was not fitted to, by offset of the action in steps.
    """

    explained: dict[int, float]

    @property
    def best(self) -> int:
        """The offset whose actions explain the change best."""
        return max(self.explained, key=lambda offset: self.explained[offset])

    @property
    def lead(self) -> float:
        """How much more variance the best offset explains than the data's own."""
        return self.explained[self.best] - self.explained[0]

    @property
    def misaligned(self) -> bool:
        """Whether another offset leads clearly."""
        return self.lead > LEAD


def alignment(episodes: Iterable[Episode]) -> Alignment | None:
    """How well actions of each offset explain the change of observations; None if there are too few steps.

    Steps are taken evenly from those that have two more steps of their episode on either side.
    """
    reach = max(OFFSETS)
    inner = [(episode, np.arange(reach, len(episode.actions) - reach)) for episode in episodes]
    total = sum(len(steps) for _, steps in inner)
    if total < FEWEST:
        return None
    every = max(1, total // STEPS)
    kept = [(episode, steps[::every]) for episode, steps in inner if len(steps)]
    before = np.concatenate([episode.observations[steps] for episode, steps in kept]).astype(np.float64)
    after = np.concatenate([episode.observations[steps + 1] for episode, steps in kept]).astype(np.float64)
    change = after - before
    spread = change.std(axis=0)
    if not spread.any():
        return None
    change = change[:, spread > 0] / spread[spread > 0]
    explained, seen = {}, _scaled(before)
    for offset in OFFSETS:
        actions = np.concatenate([episode.actions[steps + offset] for episode, steps in kept]).astype(np.float64)
        explained[offset] = _explained(np.hstack([seen, _scaled(actions)]), change)
    return Alignment(explained)


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column with mean 0 and standard deviation 1, or 0 where it never changes."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    scaled: NDArray[np.float64] = centred / np.where(spread > 0, spread, 1.0)
    return scaled


def _explained(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """R^2 on every second half of ten blocks of rows, of a ridge regression on the others."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    fitted = (10 * np.arange(len(inputs)) // len(inputs)) % 2 == 0
    x, y = inputs[fitted], targets[fitted]
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    left = targets[~fitted] - inputs[~fitted] @ weights
    centred = targets[~fitted] - targets[~fitted].mean(axis=0)
    return float(1.0 - (left**2).sum() / (centred**2).sum())
