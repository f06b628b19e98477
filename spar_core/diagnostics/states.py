"""The states at which a cell is measured, and the training states that are similar to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.improvement.base import Frozen
from spar_core.training.networks import CHUNK

# Steps looked up for each neighbour that is wanted, since the nearest are often successive steps of one episode.
SPARE = 4


@dataclass(frozen=True)
class States:
    """Some steps of the dataset, with the actions of one seed's anchor there.

    Attributes:
        steps: [n] int64, numbers of the steps.
        episodes: [n] int64, episode of each step.
        observations: [1, n, D], standardised.
        actions: [n, A], logged, in [-1, 1].
        base: [1, n, A], the anchor's deterministic actions.
    """

    steps: np.ndarray
    episodes: np.ndarray
    observations: Tensor
    actions: Tensor
    base: Tensor

    @property
    def residuals(self) -> np.ndarray:
        """Logged minus anchor actions, [n, A]."""
        return (self.actions - self.base[0]).cpu().numpy().astype(np.float64)

    def some(self, rows: np.ndarray) -> States:
        """The states of the given rows."""
        index = torch.as_tensor(rows)
        steps, episodes = self.steps[rows], self.episodes[rows]
        return States(steps, episodes, self.observations[:, index], self.actions[index], self.base[:, index])


@torch.no_grad()
def states_at(dataset: Dataset, data: DeviceData, frozen: Frozen, steps: np.ndarray) -> States:
    """The given steps of the dataset. An anchor that looks its data up leaves out the episode of each step."""
    chosen = torch.as_tensor(steps).to(data.index.device)
    observations, actions = data.at(chosen)
    base = torch.cat([frozen.anchor.act_on_steps(data, part.unsqueeze(0)) for part in chosen.split(CHUNK)], dim=1)
    return States(steps, dataset.episode[steps], observations.unsqueeze(0), actions, base)


def similar_steps(dataset: Dataset, steps: np.ndarray, neighbours: int, spacing: int) -> list[np.ndarray]:
    """For each of the steps, the training steps in the most similar states, the nearest first.

    Similar states are near in standardised observations. Two steps of one episode lie at least ``spacing`` steps apart,
    since actions within a moment are one decision. There are fewer than ``neighbours`` steps if the ``SPARE`` times as
    many nearest hold no more.
    """
    train = dataset.train_steps
    rows = dataset.observations[dataset.observation_index].astype(np.float64)
    wanted = min(SPARE * neighbours, len(train))
    _, found = cKDTree(rows[train]).query(rows[steps], k=[*range(1, wanted + 1)])
    return [_apart(dataset, train[near], neighbours, spacing) for near in found]


def _apart(dataset: Dataset, near: np.ndarray, most: int, spacing: int) -> np.ndarray:
    """The first ``most`` steps of ``near`` such that no two of one episode lie closer than ``spacing`` steps."""
    kept: list[int] = []
    taken: dict[int, list[int]] = {}
    for step, episode in zip(near.tolist(), dataset.episode[near].tolist(), strict=True):
        others = taken.setdefault(episode, [])
        if all(abs(step - other) >= spacing for other in others):
            others.append(step)
            kept.append(step)
            if len(kept) == most:
                break
    return np.array(kept, dtype=np.int64)
