r"""Does an action stay where the data are? Its distance to the nearest logged action of similar states.

.. math:: \delta(s, a) = \min_{j \in N_k(s)} \lVert a - a_j \rVert

:math:`N_k(s)` holds the k training steps whose standardised observations are nearest to s. The yardstick is the same
distance of the held-out episodes' own actions: they are on the data's support by definition, and are as far from their
neighbours as support is wide there. An action is called *off support* where it is farther away than ``QUANTILE`` of
those are, so that the logged actions themselves are off at 5% of the states.

Source: this project's definition. The distance to a state's nearest logged actions is what data-driven constraints such
as PRDC (Ran et al. 2023, arXiv 2306.03286) measure, there over (state, action) together.

Limits: states are compared by their standardised coordinates, which need not be what matters; and a distance says
nothing of what happens further on, at the states to which the actions lead.
"""

from __future__ import annotations

import numpy as np

from spar_core.data.dataset import Dataset
from spar_core.evenly import evenly

# Training steps that are looked up, evenly spread, and how many of the nearest count as similar.
BANK, NEIGHBOURS = 20_000, 25
QUANTILE = 0.95


class Support:
    """Logged actions by the states they were taken in."""

    def __init__(self, dataset: Dataset, bank: int = BANK, neighbours: int = NEIGHBOURS) -> None:
        # Here, not at the top: acting with a rule that was chosen needs no SciPy.
        from scipy.spatial import cKDTree

        chosen = evenly(dataset.train_steps, bank)
        self._tree = cKDTree(dataset.observations[dataset.observation_index[chosen]])
        self._actions = dataset.actions[chosen]
        self._neighbours = min(neighbours, len(chosen))

    def similar(self, observations: np.ndarray) -> np.ndarray:
        """Logged actions [B, k, A] of the training steps nearest to standardised observations [B, D]."""
        _, rows = self._tree.query(observations, self._neighbours)
        return self._actions[rows.reshape(len(observations), self._neighbours)]

    @staticmethod
    def distance(similar: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Distance [B] of actions [B, A], in units of the action box [-1, 1], to the nearest of ``similar``."""
        return np.linalg.norm(similar - actions[:, None], axis=-1).min(axis=1)


def off_support(distances: np.ndarray, yardstick: np.ndarray) -> np.ndarray:
    """Whether each action is off support, [B] bool, given distances [B] of it and of the logged actions [B]."""
    return distances > np.quantile(yardstick, QUANTILE)
