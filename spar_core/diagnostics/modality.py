r"""Tests whether a cloud of residuals is in one piece: Hartigan's dip along principal directions, and density clusters.

The dip of a sample is the largest distance of its distribution function from the nearest unimodal one. Its p-value is
against the uniform law, the least favourable unimodal one (Hartigan and Hartigan 1985). A cloud is called *split* if
twice the smaller p-value of its first two principal directions (Bonferroni) is below the level.

Clusters are those of HDBSCAN (Campello et al. 2013). The **fragmentation index** is our own definition,

.. math:: F = 1 - \frac{\text{points of the largest cluster}}{\text{points of all clusters}}

and 0 for fewer than two clusters, which means one piece or no structure that a density method finds.

**Pooled and local modes differ.** Pooled over all states, several modes may only say that unlike states leave unlike
residuals. Within a neighbourhood of similar states, they say that the data act in several ways in one state.
"""

from __future__ import annotations

from dataclasses import dataclass

import diptest
import numpy as np

# Principal directions that are tested.
DIRECTIONS = 2
# Smallest number of points in a cluster. A cloud of fewer than twice as many points is not tested.
SMALLEST = 5


@dataclass(frozen=True)
class Modality:
    """One cloud's dip along its first principal direction, p-value of both, number of clusters, fragmentation index."""

    dip: float
    p: float
    clusters: int
    fragmentation: float


def modality(points: np.ndarray, cluster_share: float) -> Modality | None:
    """The modality of points [n, A]; None if they are too few or all equal."""
    if len(points) < 2 * SMALLEST or float(np.ptp(points, axis=0).max()) == 0:
        return None
    clusters, fragmentation = clusters_of(points, cluster_share)
    dip, p = dips(points)
    return Modality(dip, p, clusters, fragmentation)


def dips(points: np.ndarray) -> tuple[float, float]:
    """Dip of points [n, A] along the first principal direction, and the corrected p-value of the first two."""
    along = principal(points)[:, :DIRECTIONS]
    # A direction without variance has no distribution to test.
    kept = [column for column in along.T if float(np.ptp(column)) > 1e-9]
    found = [diptest.diptest(np.sort(column)) for column in kept]
    return float(found[0][0]), min(1.0, len(found) * min(float(p) for _, p in found))


def principal(points: np.ndarray) -> np.ndarray:
    """Coordinates [n, A] of points [n, A] along their principal directions, the widest first."""
    centred = points - points.mean(axis=0)
    # The rounding of a matrix product of many rows may depend on the number of threads.
    covariance = np.einsum("ni,nj->ij", centred, centred) / len(points)
    _, directions = np.linalg.eigh(covariance)
    along: np.ndarray = np.einsum("ni,ij->nj", centred, directions[:, ::-1])
    return along


def clusters_of(points: np.ndarray, share: float) -> tuple[int, float]:
    """Number of clusters, at least 1, and the fragmentation index. A cluster holds at least ``share`` of the points."""
    from sklearn.cluster import HDBSCAN

    smallest = max(SMALLEST, round(share * len(points)))
    labels = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(points)
    sizes = np.bincount(labels[labels >= 0])
    if len(sizes) < 2:
        return 1, 0.0
    return len(sizes), 1.0 - float(sizes.max()) / float(sizes.sum())
