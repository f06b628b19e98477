r"""A normal distribution of actions, squashed into the box: behaviour cloning by maximum likelihood.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; -\mathbb{E}_{(s, a)} \log \pi_\theta(a \mid s), \qquad
          a = \tanh(u), \; u \sim \mathcal{N}\big(\mu_\theta(s), \mathrm{diag}(\sigma_\theta(s)^2)\big)

The deterministic action is :math:`\tanh(\mu_\theta(s))`, the median of each dimension.

Source: the squashed policy of SAC (Haarnoja et al. 2018, appendix C), fitted to logged actions. One network gives
both heads; bounds and the edge of the box: see ``spar_core.anchors.squashed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.squashed import LOG_STD_RANGE, draw, log_density
from spar_core.anchors.training import TrainedAnchorSettings, train
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import normal, streams


class GaussianAnchorSettings(TrainedAnchorSettings):
    pass


def heads(network: Stack, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of u, [S, B, A] each."""
    mean, log_std = network(observations).chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_RANGE)


def likelihood_loss(network: Stack, observations: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean negative log density in nats, a value a seed."""
    loss = -per_seed_mean(log_density(*heads(network, observations), actions))
    return loss.sum(), {"anchor/loss": loss.detach()}


class GaussianAnchor(Anchor):
    """A tanh-squashed normal whose mean and standard deviation depend on the state."""

    Settings = GaussianAnchorSettings
    stochastic = True
    has_density = True

    def __init__(self, network: Stack) -> None:
        self.network = network

    @classmethod
    def clone(cls, context: Context, settings: GaussianAnchorSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        shape = MLPShape(dataset.observation_size, settings.hidden, 2 * dataset.action_size)
        network = Stack(shape, len(seeds), device).initialise(streams(seeds, "anchor/initialise"))
        train(
            cls(network),
            [network],
            lambda observations, actions: likelihood_loss(network, observations, actions),
            dataset,
            settings,
            seeds,
            report,
            device,
        )
        return Fitted(network.state("network", len(seeds)), curves=report.rows)

    @classmethod
    def restore(
        cls, settings: GaussianAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> GaussianAnchor:
        inputs = tensors["network.0.weight"].shape[-2]
        outputs = tensors[f"network.{len(settings.hidden)}.weight"].shape[-1]
        return cls(Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "network", device))

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
