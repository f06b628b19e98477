r"""Residual models whose image is known, and the shipped one trained on the same data.

With the data's centre :math:`t_c(s)` on the manifold, its spread w, and a latent :math:`z = (z_1, \ldots, z_Z)`:

.. math:: G(s, a_b, z) = x\big(t_c(s) + w \, z_{1 \ldots m}\big)
   + \sum_{j > m} \sigma_n z_j N_{j - m}(t_c) - a_b

* Z < m: some directions of the manifold are missing.
* Z = m: G is a chart of the manifold, and its Jacobian has rank m.
* Z > m: further latents move along normals with singular value :math:`\sigma_n`, where those of the tangents are w.
  With Z = A the Jacobian has full rank. Latents beyond A move nothing.

For two arcs, the latent after those along the arc is a **gate** that chooses the arc: :math:`\operatorname{sign}(z)`
for a sharp decoder, whose image is that of the data, and :math:`\tanh(z / \epsilon)` for a smooth one, whose image
has a bridge between the arcs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.improvement.base import Frozen
from spar_core.residual import ResidualModel, ResidualSettings, fit_residual
from spar_core.theory.manifolds import frame
from spar_core.theory.problem import LinearCritic, OnManifold, Problem
from spar_core.training.context import Context


class ExactDecoder(ResidualModel):
    """A residual model whose decoder is known in closed form, with no network."""

    def __init__(
        self, problem: Problem, seeds: int, latents: int | None = None, normal: float = 0.0, gate: float = 0.0
    ) -> None:
        """
        Args:
            problem: gives the manifold.
            seeds: number of seeds S.
            latents: Z; None for the number of the manifold's coordinates.
            normal: sigma_n, in units of the action box.
            gate: epsilon of the gate of two arcs; 0 for a sharp gate.
        """
        self.problem, self.normal, self.gate = problem, normal, gate
        self.latent_size = problem.manifold.coordinates if latents is None else latents
        self.radius = torch.full((seeds, problem.manifold.ambient), problem.settings.radius)

    def decode(self, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
        """Residuals [S, B, A] for observations, anchor actions and latents [S, B, .]."""
        manifold, problem = self.problem.manifold, self.problem
        latents = latents.to(problem.dtype)
        t = problem.centre(observations)
        m = manifold.dim
        used = min(m, self.latent_size)
        moved = torch.cat([t[..., :used] + problem.settings.spread * latents[..., :used], t[..., used:]], dim=-1)
        if manifold.coordinates > m:
            z = latents[..., m]
            # sign(0) is 0, which lies between the arcs.
            side = torch.tanh(z / self.gate) if self.gate > 0 else 2.0 * (z > 0).to(z.dtype) - 1.0
            moved = torch.cat([moved[..., :m], side.unsqueeze(-1)], dim=-1)
        action = manifold.point(moved)
        for j in range(manifold.coordinates, min(self.latent_size, manifold.ambient)):
            action = action + self.normal * latents[..., j : j + 1] * self._normal(t, j - m)
        return action - base

    def _normal(self, t: Tensor, which: int) -> Tensor:
        """Unit normal number ``which`` at ``t``; number 0 points to the centre of curvature."""
        if which == 0:
            return self.problem.manifold.normal(t)
        # A cap's further normals are the axes of its frame that it does not use.
        return frame(self.problem.manifold.ambient)[:, self.problem.manifold.dim + which].to(t.dtype)


def exact_parts(
    problem: Problem, seeds: Sequence[int], latents: int | None = None, normal: float = 0.0, gate: float = 0.0
) -> Frozen:
    """Anchor, exact decoder and critic of a problem. The arguments are those of :class:`ExactDecoder`."""
    return Frozen(OnManifold(problem), ExactDecoder(problem, len(seeds), latents, normal, gate), LinearCritic(problem))


def learned_parts(problem: Problem, dataset: Dataset, settings: ResidualSettings, seeds: Sequence[int]) -> Frozen:
    """Anchor and critic of a problem, with the shipped residual model trained on the problem's data."""
    anchor = OnManifold(problem)
    fitted = fit_residual(Context.quiet(dataset, seeds), anchor, settings)
    return Frozen(anchor, ResidualModel.restore(settings, fitted.tensors), LinearCritic(problem))
