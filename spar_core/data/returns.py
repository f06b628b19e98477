"""Discounted returns of logged episodes, with truncated episodes continued by a value estimate."""

from __future__ import annotations

import math

import numpy as np

from spar_core.data.dataset import Dataset

# What a cut tail may still weigh for a return to count as observed: 5% of the discounted sum.
NEGLIGIBLE_TAIL = 0.05


def discounted_returns(dataset: Dataset, discount: float, tails: np.ndarray | None = None) -> np.ndarray:
    """Discounted return from every step to the end of its episode, [N] float32, in raw reward units.

    Args:
        dataset: episodes.
        discount: gamma.
        tails: [E] value of each episode's last observation, counted where the episode was truncated; without
            it the sum ends where the data end, which is right for terminated episodes only. Where the
            observation after the cut is unknown, the row repeats the last step's own observation, so the tail
            is that step's return already, and its reward is not added once more.
    """
    returns = np.empty(dataset.n_steps, dtype=np.float32)
    rewards = dataset.rewards.astype(np.float64)
    for episode, (start, length) in enumerate(zip(dataset.starts, dataset.lengths, strict=True)):
        bootstrap = tails is not None and not dataset.terminated[episode]
        total = float(tails[episode]) if bootstrap else 0.0  # type: ignore[index]
        last = start + length - 1
        if bootstrap and dataset.cut_blind[episode]:
            returns[last] = total
            last -= 1
        for step in range(last, start - 1, -1):
            total = rewards[step] + discount * total
            returns[step] = total
    return returns


def far_from_cut(dataset: Dataset, discount: float) -> np.ndarray:
    """Steps whose observed return is nearly whole, [N] bool.

    All steps of terminated episodes, and those of truncated ones that lie far enough from the cut for what
    was cut off to weigh less than ``NEGLIGIBLE_TAIL``.
    """
    horizon = math.ceil(math.log(NEGLIGIBLE_TAIL) / math.log(discount)) if discount > 0 else 1
    to_end = (dataset.starts + dataset.lengths)[dataset.episode] - np.arange(dataset.n_steps)
    return dataset.terminated[dataset.episode] | (to_end > horizon)


def last_observations(dataset: Dataset) -> np.ndarray:
    """Row of each episode's last observation, [E] int64."""
    return dataset.observation_index[dataset.starts + dataset.lengths - 1] + 1
