r"""How the decoder's output moves with its latent: the singular values of :math:`J = \partial G / \partial z`.

To first order the update of SPAR is :math:`\mathbb{E}[d] + (s_z^2 / (\tau \sigma)) J J^T \nabla_a Q`, so a direction
of action space is amplified by its squared singular value. J is [A, Z], in units of the action box per standard
deviation of the prior. Where Z < A the missing directions have the singular value 0.

* *Effective rank* is the participation ratio :math:`(\sum_k s_k^2)^2 / \sum_k s_k^4`, from 1 to A.
* *Weak* directions are those below a tenth of the largest singular value: what stands for the normal space of the data
  here. With a full-rank J it is an attenuated space, not an exact one.

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
    """Singular values [n, A], falling, and the directions [n, A, A] of action space that they belong to (columns)."""

    values: np.ndarray
    directions: np.ndarray

    @property
    def effective_rank(self) -> np.ndarray:
        """[n]; NaN where the decoder does not move at all."""
        squared = np.square(self.values)
        below = np.square(squared).sum(-1)
        return np.divide(np.square(squared.sum(-1)), below, out=np.full(len(below), np.nan), where=below > 0)

    def weak(self, share: float) -> np.ndarray:
        """[n, A] bool: directions below ``share`` of the largest singular value, all where that is 0."""
        largest = self.values[:, :1]
        return (self.values < share * largest) | (largest <= 0)


def jacobian(model: ResidualModel, observations: Tensor, base: Tensor, latents: Tensor) -> np.ndarray:
    """dG/dz [n, A, Z] of one seed, at observations [1, n, D], anchor actions [1, n, A] and latents [1, n, Z]."""
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
    """Of Jacobians [n, A, Z]."""
    actions, latents = jacobians.shape[1:]
    left, values, _ = np.linalg.svd(jacobians, full_matrices=True)
    return Spectrum(np.pad(values, ((0, 0), (0, max(0, actions - latents)))), left)


def contraction(radius: np.ndarray, base: np.ndarray) -> tuple[float, np.ndarray]:
    """log10 of the volume of the box of residuals as a share of the action box.

    Args:
        radius: [A].
        base: anchor actions [n, A].

    Returns:
        The box [-rho, rho] cut to the half-width of the action box, and [n] what of the box about each anchor action
        lies inside the action box.
    """
    box = float(np.log10(np.minimum(radius, 1.0)).sum())
    width = np.minimum(base + radius, 1.0) - np.maximum(base - radius, -1.0)
    return box, np.log10(np.maximum(width, 1e-12) / 2.0).sum(-1)
