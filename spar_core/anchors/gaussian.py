r"""A normal distribution of actions, squashed into the box: behaviour cloning by maximum likelihood.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; -\mathbb{E}_{(s, a)} \log \pi_\theta(a \mid s), \qquad
          a = \tanh(u), \; u \sim \mathcal{N}\big(\mu_\theta(s), \mathrm{diag}(\sigma_\theta(s)^2)\big)

The deterministic action is :math:`\tanh(\mu_\theta(s))`, the median of each dimension.

Source: the squashed policy of SAC (Haarnoja et al. 2018, appendix C), fitted to logged actions. One network gives
both heads; bounds and the edge of the box: see ``spar_core.anchors.squashed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from spar_core.anchors.squashed import LOG_STD_RANGE, draw, log_density
from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.randomness import normal


def heads(network: Stack, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of u, [S, B, A] each."""
    mean, log_std = network(observations).chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def likelihood_loss(network: Stack, observations: Tensor, actions: Tensor) -> tuple[Tensor, Info]:
    """Mean negative log density in nats of actions [S, B, A], for each seed."""
    loss = -per_seed_mean(log_density(*heads(network, observations), actions))
    return loss.sum(), {"anchor/loss": loss.detach()}


class GaussianAnchor(NetworkAnchor):
    """A tanh-squashed normal whose mean and standard deviation depend on the state."""

    stochastic = True
    has_density = True

    @classmethod
    def sizes(cls, settings: TrainedAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size, 2 * action_size

    def objective(self, context: Context) -> Objective:
        return Objective(partial(likelihood_loss, self.network))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(heads(self.network, observations)[0])

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        mean, log_std = heads(self.network, observations)
        return draw(mean, log_std, normal(generators, *mean.shape[1:]).to(mean.device))

    @torch.no_grad()
    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        return log_density(*heads(self.network, observations), actions)
