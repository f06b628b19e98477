r"""Intrinsic dimension of a cloud of points, by two estimators that look at nearest neighbours.

With :math:`r_{i,j}` the distance of point i to its j-th nearest neighbour:

* **TwoNN**: :math:`\mu_i = r_{i,2} / r_{i,1}` follows a Pareto law whose exponent is the dimension. The largest tenth
  of the ratios is censored. The unbiased maximum-likelihood estimate of the exponent is

  .. math:: \hat d = (k - 1) \Big/ \Big( \sum_{i \le k} \log \mu_{(i)} + (n - k) \log \mu_{(k)} \Big)

* **MLE**: :math:`\hat d^{-1} = \frac{1}{n} \sum_i \frac{1}{K - 1} \sum_{j < K} \log (r_{i,K} / r_{i,j})`.

Neighbours in time lie on a trajectory, which is a curve, and would pull both estimates towards 1 (Theiler 1986). So
only points of *other episodes* count as neighbours. Where the points of an episode are dense, both neighbours of TwoNN
may lie on one other trajectory, and its estimate is far too large.

Source: Facco et al. (2017) and, for the maximum-likelihood form, Denti et al. (2022); Levina and Bickel (2004), with
the harmonic mean over points of MacKay and Ghahramani (2005). Both are computed by scikit-dimension. Both underestimate
high dimensions for few points and near a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spar_core.diagnostics.measures import Episodes, Measure

# Points whose distances to all others are in memory at once.
ROWS = 128


@dataclass(frozen=True)
class Neighbourly:
    """Points with enough neighbours: distances (r1, r2) [n, 2], inverse local dimensions [n], and groups [n]."""

    first_two: np.ndarray
    inverse: np.ndarray
    groups: np.ndarray


def neighbour_distances(points: np.ndarray, groups: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances [m, k] to the k nearest points of other groups, and the rows [m] of ``points`` that they belong to.

    Copies of a point count once. A point with fewer than k points in other groups has no row.
    """
    _, first = np.unique(points, axis=0, return_index=True)
    rows = np.sort(first)
    kept, owners = points[rows].astype(np.float64), groups[rows]
    if len(rows) <= k:
        return np.empty((0, k)), np.empty(0, dtype=np.int64)
    parts = []
    for start in range(0, len(kept), ROWS):
        squared = np.square(kept[start : start + ROWS, None] - kept[None]).sum(-1)
        squared[owners[start : start + ROWS, None] == owners[None]] = np.inf
        parts.append(np.sqrt(np.sort(np.partition(squared, k - 1, axis=1)[:, :k], axis=1)))
    distances = np.concatenate(parts)
    enough = np.isfinite(distances[:, -1])
    return distances[enough], rows[enough]


def neighbourly(points: np.ndarray, groups: np.ndarray, k: int) -> Neighbourly:
    """The input of both estimators for points [n, A] in groups [n], with ``k`` neighbours for the second."""
    from skdim.id import MLE

    distances, rows = neighbour_distances(points, groups, k)
    if len(rows) < 3:
        return Neighbourly(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=np.int64))
    index = np.zeros_like(distances, dtype=np.int64)
    with np.errstate(divide="ignore"):  # equal distances give an infinite dimension, whose inverse is 0
        # The first argument should be the points. It is checked but not used, so distances stand in.
        local = MLE().fit(distances, precomputed_knn_arrays=(distances, index), n_neighbors=1)
        inverse = 1.0 / np.asarray(local.dimension_pw_, dtype=np.float64)
    return Neighbourly(distances[:, :2], inverse, groups[rows])


def two_nn(first_two: np.ndarray) -> float:
    """TwoNN from distances [n, 2] to the two nearest neighbours; NaN for fewer than three points."""
    from skdim.id import TwoNN

    if len(first_two) < 3:
        return float("nan")
    ratios = np.log(first_two[:, 1] / first_two[:, 0])
    if np.sort(ratios)[: int(0.9 * len(ratios))].sum() <= 0:
        return float("nan")  # a lattice, whose ratios are all 1
    return float(TwoNN(dist=True, method="mle").fit(first_two).dimension_)


def dimensions(found: Neighbourly, names: tuple[str, str], bootstrap: tuple[int, float, int]) -> tuple[Measure, ...]:
    """Both estimates with intervals over groups. ``bootstrap`` is (resamples, confidence, seed)."""
    if not len(found.groups):
        return tuple(Measure(name, None) for name in names)
    over = Episodes(found.groups, *bootstrap)
    first = over.statistic(names[0], lambda index: two_nn(found.first_two[index]))
    return first, over.ratio(names[1], np.ones(len(found.inverse)), found.inverse)
