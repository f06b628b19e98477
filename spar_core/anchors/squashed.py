r"""Normal draws squashed into the action box by tanh, and their densities.

For :math:`a = \tanh(u)` with :math:`u \sim \mathcal{N}(\mu, \mathrm{diag}(\sigma^2))`:

.. math:: \log p(a) = \sum_d \Big[ \log \mathcal{N}\big(\mathrm{artanh}(a_d); \mu_d, \sigma_d^2\big)
          - \log(1 - a_d^2) \Big]

Source: SAC (Haarnoja et al. 2018, appendix C). SAC takes the density of the policy's own draws, whose u is known. Here
it is taken of logged actions, so u is computed from them. An action closer to the edge of the box than ``MARGIN``
counts as lying at that distance, because u has no bound there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Logged actions are often exactly -1 or 1. A smaller margin moves them further from all other actions in u, and the
# normals, which are fitted in u, spread to reach them.
MARGIN = 1e-3
# Bounds of the log standard deviation of u. They keep its exponential from overflowing, and the density bounded where
# the data repeat an action.
LOG_STD_RANGE = (-5.0, 2.0)


def unsquash(actions: Tensor) -> tuple[Tensor, Tensor]:
    """artanh(a) and log(1 - a^2) of actions in [-1, 1], elementwise."""
    # log1p rounds a number alike at every place of a tensor; torch.atanh does not.
    inside = actions.clamp(MARGIN - 1.0, 1.0 - MARGIN)
    above, below = torch.log1p(inside), torch.log1p(-inside)
    return 0.5 * (above - below), above + below


def log_density(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log density [...] in nats of actions [..., A] in [-1, 1], given mean and log standard deviation of u."""
    u, log_slope = unsquash(actions)
    scaled = (u - mean) * (-log_std).exp()
    return -(0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi) + log_slope).sum(-1)


def draw(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """Actions in [-1, 1] from standard normal noise of the same shape, given mean and log standard deviation of u."""
    return torch.tanh(mean + log_std.exp() * noise)
