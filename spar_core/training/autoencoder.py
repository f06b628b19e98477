r"""What the conditional variational autoencoders share: the encoder's step and its divergence from the prior.

The encoder gives a normal :math:`q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}(\sigma(x)^2))`; the prior is
:math:`\mathcal{N}(0, I)`.

.. math:: z = \mu + \sigma \epsilon, \; \epsilon \sim \mathcal{N}(0, I), \qquad
   \mathrm{KL}(q \,\Vert\, \mathcal{N}(0, I)) = \sum_i \tfrac{1}{2} (\mu_i^2 + \sigma_i^2 - 1) - \log \sigma_i

Source: Kingma and Welling 2014 (section 2.4 and appendix B); conditional as in Sohn et al. 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.training.networks import Stack, per_seed_mean

# Bounds of the encoder's log standard deviation, against overflow of its exponential.
LOG_STD_RANGE = (-8.0, 2.0)


def latent_size(latent_per_action: float, action_size: int) -> int:
    """Number of dimensions of z, at least one."""
    return max(1, round(latent_per_action * action_size))


def encode(encoder: Stack, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of z, [S, B, Z] each, given inputs [S, B, .] side by side."""
    mean, log_std = encoder(torch.cat(inputs, dim=-1)).chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL divergence [S] in nats of q(z | x) from the prior, as a mean over the batch."""
    return per_seed_mean((0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1))
