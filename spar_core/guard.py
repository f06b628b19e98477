r"""A guard for deployment: how far an observation lies from the states of the training data.

.. math:: d(s) = \frac{1}{q} \min_k \lVert W (s - c_k) \rVert, \qquad
   W W^\top = (\Sigma + \epsilon I)^{-1}

with standardised observations s, their covariance :math:`\Sigma` over the training steps, and centres :math:`c_k` that
k-means places in the coordinates of W. The scale q is a high quantile of the distances of held-out steps. So a distance
above 1 is one that few states of episodes like the data's have. A single centre gives the Mahalanobis distance.

Source: k-means and Mahalanobis distances are textbook; their use here is this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spar_core.data.dataset import Dataset
from spar_core.errors import SparError
from spar_core.evenly import evenly

CENTRES = 256
QUANTILE = 0.99
# Steps that the guard is fitted to and scaled by, at most.
STEPS = 20_000
# Added to each variance, in squared standard deviations, so that a direction in which the data hardly differ counts as
# one of a tenth of a standard deviation.
RIDGE = 0.01


@dataclass(frozen=True)
class Guard:
    """Centres of the training states, and the scale of distances to them.

    Attributes:
        whitening: W, [D, D].
        centres: [K, D], in the coordinates of W.
        scale: q.
        limit: distance beyond which the anchor acts; None if it never does on this account.
    """

    whitening: NDArray[np.float32]
    centres: NDArray[np.float32]
    scale: float
    limit: float | None

    def distance(self, standardised: NDArray[np.float32]) -> NDArray[np.float32]:
        """d [n] of standardised observations [n, D]."""
        at = standardised @ self.whitening
        nearest = np.stack([((at - centre) ** 2).sum(axis=1) for centre in self.centres]).min(axis=0)
        distances: NDArray[np.float32] = (np.sqrt(nearest) / np.float32(self.scale)).astype(np.float32)
        return distances


def fit_guard(dataset: Dataset, limit: float | None = None, centres: int = CENTRES) -> Guard:
    """The guard of a dataset.

    Args:
        dataset: centres come from its training episodes, and the scale from its held-out ones.
        limit: distance beyond which the anchor acts; None for never.
        centres: K, or the number of training steps if there are fewer.

    Raises:
        SparError: the limit is not positive.
    """
    if limit is not None and not limit > 0:
        raise SparError(f"the guard's limit {limit} is not positive", "1 is the 99% quantile of held-out states")
    from sklearn.cluster import KMeans

    train, held = (
        dataset.observations[dataset.observation_index[evenly(steps, STEPS)]].astype(np.float64)
        for steps in (dataset.train_steps, dataset.heldout_steps)
    )
    values, vectors = np.linalg.eigh(np.cov(train, rowvar=False).reshape(train.shape[1], -1))
    whitening = (vectors / np.sqrt(np.maximum(values, 0.0) + RIDGE)).astype(np.float32)
    found = KMeans(min(centres, len(np.unique(train, axis=0))), n_init=1, random_state=0).fit(train @ whitening)
    plain = Guard(whitening, found.cluster_centers_.astype(np.float32), 1.0, limit)
    scale = float(np.quantile(plain.distance(held.astype(np.float32)), QUANTILE))
    return Guard(whitening, plain.centres, max(scale, 1e-6), limit)
