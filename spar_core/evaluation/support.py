r"""Does an action stay where the data are? Its distance to the nearest logged action of similar states.

.. math:: \delta(s, a) = \min_{j \in N_k(s)} \lVert a - a_j \rVert

:math:`N_k(s)` holds the k training steps whose standardised observations are nearest to s. The yardstick is the same
distance of the held-out episodes' own actions: they are on the data's support by definition, so their distances show
how wide the support is. An action is called *off support* where its distance exceeds the ``QUANTILE`` of those
distances; the logged actions themselves are then off support at 5% of the states.

Source: this project's definition. Data-driven constraints such as PRDC (Ran et al. 2023, arXiv 2306.03286) measure a
similar distance to the nearest logged action, in the space of (state, action) pairs.

Limits: states are compared by their standardised coordinates, which need not be the ones that matter; and a distance
says nothing about the states to which the actions lead.
"""

from __future__ import annotations

import numpy as np

from spar_core.data.dataset import Dataset
from spar_core.evenly import evenly

# Training steps that are searched, evenly spread, and the number of nearest ones that count as similar.
BANK, NEIGHBOURS = 20_000, 25
# Quantile of the held-out actions' distances beyond which an action is off support.
QUANTILE = 0.95


class Support:
    """Logged actions, looked up by the states in which they were taken.

    Args:
        dataset: its training episodes are looked up.
        bank: training steps that are searched, at most.
        neighbours: number of nearest steps that count as similar.
    """

    def __init__(self, dataset: Dataset, bank: int = BANK, neighbours: int = NEIGHBOURS) -> None:
        # Imported here, because acting with a chosen rule needs no SciPy.
        from scipy.spatial import cKDTree

        chosen = evenly(dataset.train_steps, bank)
        self._tree = cKDTree(dataset.observations[dataset.observation_index[chosen]])
        self._actions = dataset.actions[chosen]
        self._neighbours = min(neighbours, len(chosen))

    def similar(self, observations: np.ndarray) -> np.ndarray:
        """Logged actions [B, k, A] of the training steps nearest to standardised observations [B, D]."""
        _, rows = self._tree.query(observations, self._neighbours)
        found: np.ndarray = self._actions[rows.reshape(len(observations), self._neighbours)]
        return found

    @staticmethod
    def distance(similar: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Distance [B] of actions [B, A], in units of the action box [-1, 1], to the nearest of ``similar``."""
        found: np.ndarray = np.linalg.norm(similar - actions[:, None], axis=-1).min(axis=1)
        return found


def off_support(distances: np.ndarray, yardstick: np.ndarray) -> np.ndarray:
    """Whether each action is off support, [B] bool, given its distance [B] and those of the logged actions [B]."""
    found: np.ndarray = distances > np.quantile(yardstick, QUANTILE)
    return found
