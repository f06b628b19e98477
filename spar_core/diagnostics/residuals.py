r"""The residuals of an anchor: their lengths, their distribution by action dimension, and how many reach the radius.

With :math:`r = a - a_b` for a logged action a and the anchor's action :math:`a_b`, a residual is *at the radius* in
dimension d where :math:`|r_d| \ge \rho_d`. There the targets of the residual model are clipped. Histograms have fixed
bins in units of :math:`\rho_d`, so that anchors and dimensions can be compared.
"""

from __future__ import annotations

import numpy as np

from spar_core.diagnostics.measures import Episodes, Findings

# Edges of the bins within the radius, in units of the radius. What lies beyond has a bin on either side.
EDGES = np.linspace(-1.0, 1.0, 21)
# Quantiles that are given, in percent of the states.
SHARES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def at_radius(residuals: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """[n, A] bool: whether each component of the residuals [n, A] reaches the radius [A]."""
    reached: np.ndarray = np.abs(residuals) >= radius
    return reached


def histogram(column: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the bins, and the share of the residuals [n] in each bin. The outer bins hold those at the radius."""
    scaled = column / radius
    inside = np.abs(scaled) < 1.0
    counts, _ = np.histogram(scaled[inside], EDGES)
    half = (EDGES[1] - EDGES[0]) / 2
    centres = np.concatenate([[-1.0 - half], EDGES[:-1] + half, [1.0 + half]])
    shares = np.concatenate([[(scaled <= -1).sum()], counts, [(scaled >= 1).sum()]]) / max(1, len(column))
    return centres, shares


def describe(found: Findings, split: str, residuals: np.ndarray, radius: np.ndarray, over: Episodes) -> None:
    """Add measures and profiles of the residuals [n, A] of a split, "train" or "heldout"."""
    length = np.linalg.norm(residuals, axis=1)
    reached = at_radius(residuals, radius)
    found.add(
        over.mean(f"geometry/norm_{split}", length),
        over.mean(f"geometry/at_radius_{split}", reached.mean(axis=1)),
    )
    found.profile(f"geometry/norm_{split}", SHARES, np.percentile(length, SHARES))
    found.profile(f"geometry/at_radius_{split}", range(len(radius)), reached.mean(axis=0))
    for d, rho in enumerate(radius):
        found.profile(f"geometry/histogram_{split}/{d}", *histogram(residuals[:, d], float(rho)))
