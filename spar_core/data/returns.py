"""Discounted returns of logged episodes; a value estimate stands for the rest of a truncated episode."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spar_core.data.dataset import Dataset

# Largest discount factor with which a cut-off tail may enter a return that counts as observed.
NEGLIGIBLE_TAIL = 0.05


def discounted_returns(
    dataset: Dataset, discount: float, tails: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """Discounted return from every step to the end of its episode, [N], in the units of ``dataset.rewards``.

    A return ends at the first of the dataset's ``stops``, and the return of the next step begins anew.

    Args:
        dataset: the logged episodes.
        discount: gamma, in [0, 1).
        tails: [E] value of each episode's last observation, which is bootstrapped from if the episode was truncated.
            None treats every episode as terminated. If the observation after a cut is unknown, the last row is a copy
            of the last step's observation. The tail is then that step's return, and its reward is not added to it.
    """
    returns = np.empty(dataset.n_steps, dtype=np.float32)
    rewards, stops = dataset.rewards.astype(np.float64), dataset.stops
    for episode, (start, length) in enumerate(zip(dataset.starts, dataset.lengths, strict=True)):
        total, last = 0.0, start + length - 1
        if tails is not None and not dataset.terminated[episode]:
            total = float(tails[episode])
            if dataset.cut_blind[episode]:
                returns[last] = total
                last -= 1
        for step in range(last, start - 1, -1):
            if stops is not None and stops[step]:
                total = 0.0
            total = rewards[step] + discount * total
            returns[step] = total
    return returns


def far_from_cut(dataset: Dataset, discount: float) -> NDArray[np.bool_]:
    """Which steps have a nearly complete observed return, [N].

    These are all steps before a termination or one of the ``stops`` of their episode, and the other steps that lie so
    far before the cut that what follows it is discounted by less than ``NEGLIGIBLE_TAIL``.
    """
    horizon = math.ceil(math.log(NEGLIGIBLE_TAIL) / math.log(discount)) if discount > 0 else 1
    to_end = (dataset.starts + dataset.lengths)[dataset.episode] - np.arange(dataset.n_steps)
    far: NDArray[np.bool_] = (dataset.to_termination < dataset.n_steps) | (to_end > horizon)
    return far


def last_observations(dataset: Dataset) -> NDArray[np.int64]:
    """Row of each episode's last observation in ``dataset.observations``, [E]."""
    rows: NDArray[np.int64] = dataset.observation_index[dataset.starts + dataset.lengths - 1] + 1
    return rows
