r"""Moments of clipped normal latents, unweighted and weighted by a linear value.

For a standard normal z clipped to :math:`[-c, c]`, which has mass :math:`\Phi(-c)` at either end:

.. math:: s_z^2 = 1 - 2 c \phi(c) - 2 (1 - c^2) \Phi(-c), \qquad
   M(\alpha) = \mathbb{E} e^{\alpha z} = 2 \Phi(-c) \cosh(\alpha c)
   + e^{\alpha^2 / 2} \big[\Phi(c - \alpha) - \Phi(-c - \alpha)\big], \qquad
   \mathbb{E}_w z = M'(\alpha) / M(\alpha)

for weights :math:`w \propto e^{\alpha z}`, to which the softmax over K candidates tends as K grows.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def clipped_variance(clip: float) -> float:
    """Variance of a standard normal clipped to [-clip, clip]."""
    return float(1 - 2 * clip * stats.norm.pdf(clip) - 2 * (1 - clip**2) * stats.norm.cdf(-clip))


def tilted_mean(alpha: float, clip: float) -> float:
    """Mean of a clipped standard normal under weights exp(alpha z), M'(alpha) / M(alpha)."""
    cdf, pdf = stats.norm.cdf, stats.norm.pdf
    inside = math.exp(alpha**2 / 2) * (cdf(clip - alpha) - cdf(-clip - alpha))
    edge = math.exp(alpha**2 / 2) * (pdf(-clip - alpha) - pdf(clip - alpha))
    m = 2 * cdf(-clip) * math.cosh(alpha * clip) + inside
    return float((2 * clip * cdf(-clip) * math.sinh(alpha * clip) + alpha * inside + edge) / m)


def clipped_grid(clip: float, points: int = 2001) -> tuple[np.ndarray, np.ndarray]:
    """Values [n + 2] and probabilities [n + 2] that approximate a clipped standard normal: the two ends, and a grid."""
    inner = np.linspace(-clip, clip, points)
    weights = stats.norm.pdf(inner)
    weights *= (1 - 2 * stats.norm.cdf(-clip)) / weights.sum()
    ends = np.array([-clip, clip])
    return np.concatenate([ends, inner]), np.concatenate([np.full(2, stats.norm.cdf(-clip)), weights])
