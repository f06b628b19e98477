r"""A guard for deployment: how far an observation, and the corrected action, lie from the training data.

.. math:: d(s) = \frac{1}{q} \min_k \lVert W (s - c_k) \rVert, \qquad
   W W^\top = (\Sigma + \epsilon I)^{-1}

with standardised observations s, their covariance :math:`\Sigma` over the training steps, and centres :math:`c_k` that
k-means places in the coordinates of W. The scale q is a high quantile of the distances of held-out steps. So a distance
above 1 is one that few states of episodes like the data's have. A single centre gives the Mahalanobis distance.

.. math:: d(s, a) = \sqrt{\tfrac{1}{A} \sum_i \big((a_i - a_{b,i}) / \rho_i\big)^2}

is the same of an action a: how far it lies from the anchor's action :math:`a_b`. The scales :math:`\rho` are those by
which the logged actions spread around the anchor's, times the quantile of the held-out steps.

Source: k-means and Mahalanobis distances are textbook; their use here is this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spar_core.data.dataset import Dataset
from spar_core.errors import SparError
from spar_core.evenly import evenly
from spar_core.policy import Policy

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
        limit: distance beyond which the anchor acts, of the observation or of the action; None if it never does on
            this account.
        reach: rho, [A], in units in which the action box is [-1, 1]; None if actions are not guarded.
    """

    whitening: NDArray[np.float32]
    centres: NDArray[np.float32]
    scale: float
    limit: float | None
    reach: NDArray[np.float32] | None = None

    def distance(self, standardised: NDArray[np.float32]) -> NDArray[np.float32]:
        """d [n] of standardised observations [n, D]."""
        at = standardised @ self.whitening
        nearest = np.stack([((at - centre) ** 2).sum(axis=1) for centre in self.centres]).min(axis=0)
        distances: NDArray[np.float32] = (np.sqrt(nearest) / np.float32(self.scale)).astype(np.float32)
        return distances


def fit_guard(
    dataset: Dataset, limit: float | None = None, centres: int = CENTRES, policy: Policy | None = None
) -> Guard:
    """The guard of a dataset.

    Args:
        dataset: centres come from its training episodes, and the scale from its held-out ones.
        limit: distance beyond which the anchor acts; None for never.
        centres: K, or the number of training steps if there are fewer.
        policy: one that was trained on the dataset; then its actions are guarded too.

    Raises:
        SparError: the limit is not positive.
    """
    if limit is not None and not limit > 0:
        raise SparError(f"the guard's limit {limit} is not positive", "1 is the 99% quantile of held-out states")
    from sklearn.cluster import KMeans

    steps = [evenly(some, STEPS) for some in (dataset.train_steps, dataset.heldout_steps)]
    train, held = (dataset.observations[dataset.observation_index[some]].astype(np.float64) for some in steps)
    values, vectors = np.linalg.eigh(np.cov(train, rowvar=False).reshape(train.shape[1], -1))
    whitening = (vectors / np.sqrt(np.maximum(values, 0.0) + RIDGE)).astype(np.float32)
    found = KMeans(min(centres, len(np.unique(train, axis=0))), n_init=1, random_state=0).fit(train @ whitening)
    plain = Guard(whitening, found.cluster_centers_.astype(np.float32), 1.0, limit)
    scale = float(np.quantile(plain.distance(held.astype(np.float32)), QUANTILE))
    reach = None if policy is None else _reach(dataset, policy, *steps)
    return Guard(whitening, plain.centres, max(scale, 1e-6), limit, reach)


def _reach(dataset: Dataset, policy: Policy, train: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.float32]:
    """rho [A]: spread by the steps ``train``, and the quantile by the steps ``held``."""
    away = []
    for steps in (train, held):
        states = torch.from_numpy(dataset.observations[dataset.observation_index[steps]])
        each = policy.rule.frozen.anchor.act_on_all(states.to(policy.device), policy.members)
        away.append(dataset.actions[steps] - each.clamp(-1.0, 1.0).mean(dim=0).cpu().numpy())
    # An action that the anchor clones to the last bit leaves nothing to divide by.
    spread = np.maximum(np.sqrt((away[0] ** 2).mean(axis=0)), 1e-6)
    beyond = np.quantile(np.sqrt(((away[1] / spread) ** 2).mean(axis=1)), QUANTILE)
    reach: NDArray[np.float32] = (spread * max(float(beyond), 1e-6)).astype(np.float32)
    return reach
