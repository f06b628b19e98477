r"""Singular values of the decoder's Jacobian :math:`J = \partial G / \partial z`.

To first order the update of SPAR is :math:`\mathbb{E}[d] + (s_z^2 / (\tau \sigma)) J J^T \nabla_a Q`, so a direction
of action space is amplified by its squared singular value. J is [A, Z], in units of the action box per standard
deviation of the prior. Where Z < A the missing directions have the singular value 0.

* *Effective rank* is the participation ratio :math:`(\sum_k s_k^2)^2 / \sum_k s_k^4`, from 1 to A.
* *Weak* directions are those below a share (by default a tenth) of the largest singular value. They stand for the
  normal space of the data. With a full-rank J this space is attenuated, not removed.

Source: SPAR (arXiv 2605.27877) for the claim that normal drift is removed; what weak means is this project's reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spar_core.residual import ResidualModel
from spar_core.training.networks import CHUNK


@dataclass(frozen=True)
class Spectrum:
    """Singular values [n, A] in falling order, and their directions in action space as columns of [n, A, A]."""

    values: np.ndarray
    directions: np.ndarray

    @property
    def effective_rank(self) -> np.ndarray:
        """Effective rank [n]; NaN where the decoder does not move at all."""
        squared = np.square(self.values)
        below = np.square(squared).sum(-1)
        missing = np.full(len(below), np.nan)
        rank: np.ndarray = np.divide(np.square(squared.sum(-1)), below, out=missing, where=below > 0)
        return rank

    def weak(self, share: float) -> np.ndarray:
        """[n, A] bool: whether a direction lies below ``share`` of the largest singular value, or that value is 0."""
        largest = self.values[:, :1]
        return (self.values < share * largest) | (largest <= 0)


def jacobian(model: ResidualModel, observations: Tensor, base: Tensor, latents: Tensor) -> np.ndarray:
    """dG/dz [n, A, Z] of one seed at observations [1, n, D], anchor actions [1, n, A] and latents [1, n, Z]."""
    parts = []
    for o, b, z in zip(*(x.split(CHUNK, 1) for x in (observations, base, latents)), strict=True):
        with torch.enable_grad():
            point = z.detach().clone().requires_grad_()
            residual = model.decode(o, b, point)
            rows = [
                torch.autograd.grad(residual[..., i].sum(), point, retain_graph=True)[0]
                for i in range(residual.shape[-1])
            ]
        parts.append(torch.stack(rows, dim=2)[0])
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def spectrum(jacobians: np.ndarray) -> Spectrum:
    """The spectrum of Jacobians [n, A, Z]."""
    actions, latents = jacobians.shape[1:]
    left, values, _ = np.linalg.svd(jacobians, full_matrices=True)
    return Spectrum(np.pad(values, ((0, 0), (0, max(0, actions - latents)))), left)


def contraction(radius: np.ndarray, base: np.ndarray) -> tuple[float, np.ndarray]:
    """Volume of the box of residuals as a share of the action box, in log10.

    Args:
        radius: rho, [A].
        base: anchor actions [n, A].

    Returns:
        The volume of the box [-rho, rho], with half-widths of at most 1; and for each anchor action the volume [n] of
        the part of the box about it that lies inside the action box.
    """
    box = float(np.log10(np.minimum(radius, 1.0)).sum())
    width = np.minimum(base + radius, 1.0) - np.maximum(base - radius, -1.0)
    return box, np.log10(np.maximum(width, 1e-12) / 2.0).sum(-1)
