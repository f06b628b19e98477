r"""The displacement of a policy from its anchor, split into repair and improvement, strong and weak directions.

.. math::
   a - a_b = \underbrace{\mathbb{E}_z[d]}_{\text{repair}}
   + \underbrace{(a - a_b) - \mathbb{E}_z[d]}_{\text{improvement}}, \qquad d = \mathrm{clip}(a_b + G(s, a_b, z)) - a_b

Repair is the mean candidate of the residual model, which is the target under a flat critic. It is computed from the
frozen parts and is no trained policy. Each displacement v is split by the left singular vectors of
:math:`J = \partial G / \partial z` at z = 0 into a strong part and a weak part :math:`P_w v` (singular values under a
tenth of the largest). The weak share is :math:`\sum_s \lVert P_w v \rVert^2 / \sum_s \lVert v \rVert^2`. Its yardstick
is the weak share of a random direction, which is the mean share of weak directions.

This is first order only: where the decoder is curved, a move along its image may leave the strong directions of z = 0.

Source: the claim is SPAR's ("manifold-normal drift", arXiv 2605.27877); the split and its threshold are our reading.
"""

from __future__ import annotations

import numpy as np
import torch

from spar_core.diagnostics.jacobian import Spectrum
from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.states import States
from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.training.randomness import stream

# Candidates that the decoder computes at once.
ROWS = 16_384


@torch.no_grad()
def mean_candidate(frozen: Frozen, states: States, draws: int, clip: float, seed: int) -> np.ndarray:
    """E[d] [n, A]: mean candidate over ``draws`` latents of the prior, clipped to [-clip, clip]."""
    size = frozen.residual.latent_size
    generator = stream(seed, "diagnosis/latents")
    parts = []
    for rows in torch.arange(states.base.shape[1]).split(max(1, ROWS // draws)):
        observations, base = (x[:, rows].repeat_interleave(draws, dim=1) for x in (states.observations, states.base))
        latents = torch.randn(len(rows) * draws, size, generator=generator).clamp(-clip, clip)
        candidates = clipped_candidates(frozen, observations, base, latents.unsqueeze(0).to(base.device))
        parts.append(candidates[0].unflatten(0, (len(rows), draws)).mean(dim=1))
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def weak_part(vectors: np.ndarray, spectrum: Spectrum, share: float) -> np.ndarray:
    """Squared length [n] of the part of ``vectors`` [n, A] along weak directions."""
    along = np.einsum("nai,na->ni", spectrum.directions, vectors)
    lengths: np.ndarray = (np.square(along) * spectrum.weak(share)).sum(-1)
    return lengths


def describe(
    found: Findings, total: np.ndarray, repair: np.ndarray, spectrum: Spectrum, share: float, over: Episodes
) -> None:
    """Add lengths and weak shares of displacements [n, A]. A displacement of 0 everywhere has no weak share."""
    moves = {"total": total, "repair": repair, "improvement": total - repair}
    if not total.any():
        moves = {"total": total}  # the rule ``anchor``
    for name, vectors in moves.items():
        squared = np.square(vectors).sum(-1)
        found.add(over.mean(f"diagnosis/{name}_length", np.sqrt(squared)))
        if vectors.any():
            found.add(over.ratio(f"diagnosis/{name}_weak_share", weak_part(vectors, spectrum, share), squared))
    found.add(over.mean("diagnosis/random_weak_share", spectrum.weak(share).mean(axis=1)))
