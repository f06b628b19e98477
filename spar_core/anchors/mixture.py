r"""A mixture density network: several squashed normals a state, for data that act in several ways.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; -\mathbb{E}_{(s, a)} \log \sum_{k=1}^{K} w_k(s) \, p_k(a \mid s), \qquad
          p_k: a = \tanh(u), \; u \sim \mathcal{N}\big(\mu_k(s), \mathrm{diag}(\sigma_k(s)^2)\big)

where the weights :math:`w` are the softmax of K outputs. The deterministic action is :math:`\tanh(\mu_k(s))` for the
component k with the largest weight.

Source: Bishop 1994 (Mixture density networks, equations 22 to 29). There the components have one width for all
dimensions and are not squashed; the squashing is that of ``spar_core.anchors.squashed``. The components' means
start apart (``SPREAD``), because components that start alike get similar gradients and stay together for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.squashed import LOG_STD_RANGE, draw, log_density
from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.randomness import normal, streams

# Standard deviation of the components' first means, in u.
SPREAD = 0.5


class MixtureAnchorSettings(TrainedAnchorSettings):
    """Settings of a mixture density network."""

    components: PositiveInt = Field(5, description="K, ways of acting that a state can have")


def heads(network: Stack, observations: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights [S, B, K], and means and log standard deviations of u, [S, B, K, A] each."""
    outputs = network(observations)
    logits, rest = outputs[..., :components], outputs[..., components:]
    means, log_stds = rest.unflatten(-1, (components, -1)).chunk(2, dim=-1)
    return torch.log_softmax(logits, dim=-1), means, log_stds.clamp(*LOG_STD_RANGE)


def mixture_log_density(network: Stack, observations: Tensor, actions: Tensor, components: int) -> Tensor:
    """Log density [S, B] in nats of actions [S, B, A]."""
    log_weights, means, log_stds = heads(network, observations, components)
    return torch.logsumexp(log_weights + log_density(means, log_stds, actions.unsqueeze(2)), dim=-1)


def likelihood_loss(network: Stack, observations: Tensor, actions: Tensor, components: int) -> tuple[Tensor, Info]:
    """Mean negative log density in nats of actions [S, B, A], for each seed."""
    loss = -per_seed_mean(mixture_log_density(network, observations, actions, components))
    return loss.sum(), {"anchor/loss": loss.detach()}


class MixtureAnchor(NetworkAnchor):
    """K tanh-squashed normals and their weights, all of which depend on the state."""

    Settings = MixtureAnchorSettings
    settings: MixtureAnchorSettings
    stochastic = True
    has_density = True

    @classmethod
    def sizes(cls, settings: MixtureAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size, settings.components * (1 + 2 * action_size)

    def initialise(self, seeds: Sequence[int]) -> None:
        super().initialise(seeds)
        k = self.settings.components
        bias = self.network.parameters[f"{len(self.settings.hidden)}.bias"][:, 0, k:].unflatten(-1, (k, -1))
        means = bias[..., : bias.shape[-1] // 2]
        means += SPREAD * normal(streams(seeds, "anchor/spread"), *means.shape[1:]).to(means.device)

    def objective(self, context: Context) -> Objective:
        return Objective(partial(likelihood_loss, self.network, components=self.settings.components))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        log_weights, means, _ = heads(self.network, observations, self.settings.components)
        return torch.tanh(_pick(means, log_weights.argmax(dim=-1)))

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        log_weights, means, log_stds = heads(self.network, observations, self.settings.components)
        uniform = torch.stack([torch.rand(means.shape[1], 1, generator=g) for g in generators]).to(means.device)
        below = log_weights.exp().cumsum(dim=-1) < uniform
        # The weights may add up to a little less than one.
        chosen = below.sum(dim=-1).clamp(max=self.settings.components - 1)
        noise = normal(generators, means.shape[1], means.shape[3]).to(means.device)
        return draw(_pick(means, chosen), _pick(log_stds, chosen), noise)

    @torch.no_grad()
    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor:
        return mixture_log_density(self.network, observations, actions, self.settings.components)


def _pick(values: Tensor, components: Tensor) -> Tensor:
    """The values [S, B, A] of the given components [S, B], out of values [S, B, K, A]."""
    index = components[..., None, None].expand(-1, -1, 1, values.shape[-1])
    return values.gather(2, index).squeeze(2)
