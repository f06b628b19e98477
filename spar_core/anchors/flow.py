r"""Conditional flow matching: a velocity field that carries noise to actions along straight paths.

Objective, over the training steps (s, a) of the dataset, noise :math:`x_0 \sim \mathcal{N}(0, I)` and times
:math:`t \sim \mathcal{U}[0, 1]`:

.. math:: \min_\theta \; \mathbb{E} \big\lVert v_\theta(s, x_t, t) - (a - x_0) \big\rVert^2, \qquad
          x_t = (1 - t) \, x_0 + t \, a

A sample is :math:`x_1` of :math:`\dot{x} = v_\theta(s, x, t)` from a normal :math:`x_0`, by ``flow_steps`` steps of
Euler, clipped to the box. The deterministic action starts at :math:`x_0 = 0`, where the velocity is the mean action.

Source: Lipman et al. 2023 (equation 23 with :math:`\sigma_{\min} = 0`), as the behaviour policy of FQL (Park et al.
2025, equation 6 and algorithm 1). FQL's one-step policy, which a critic guides, is no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.training import TrainedAnchorSettings, train
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal, streams, uniform


class FlowAnchorSettings(TrainedAnchorSettings):
    flow_steps: PositiveInt = 10


def velocity(network: Stack, observations: Tensor, points: Tensor, times: Tensor) -> Tensor:
    """v [S, B, A] at points [S, B, A] and times [S, B, 1]."""
    return network(torch.cat([observations, points, times], dim=-1))


def matching_loss(
    network: Stack, observations: Tensor, actions: Tensor, noise: Tensor, times: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity on straight paths, a value a seed; noise [S, B, A], times [S, B, 1]."""
    points = (1.0 - times) * noise + times * actions
    error = per_seed_mean((velocity(network, observations, points, times) - (actions - noise)).square())
    return error.sum(), {"anchor/loss": error.detach()}


class FlowAnchor(Anchor):
    """A velocity field and the number of Euler steps along it."""

    Settings = FlowAnchorSettings
    stochastic = True

    def __init__(self, network: Stack, flow_steps: int) -> None:
        self.network, self.flow_steps = network, flow_steps

    @classmethod
    def clone(cls, context: Context, settings: FlowAnchorSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        size, batch = dataset.action_size, settings.batch_size
        shape = MLPShape(dataset.observation_size + size + 1, settings.hidden, size)
        network = Stack(shape, len(seeds), device).initialise(streams(seeds, "anchor/initialise"))
        noise = Draws(seeds, "anchor/noise", gaussian(batch, size), device)
        times = Draws(seeds, "anchor/times", uniform(batch, 1), device)

        def loss_of(observations: Tensor, actions: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return matching_loss(network, observations, actions, x, t)

        anchor = cls(network, settings.flow_steps)
        train(anchor, [network], loss_of, dataset, settings, seeds, report, device, noise=noise, times=times)
        return Fitted(network.state("network", len(seeds)), curves=report.rows)

    @classmethod
    def restore(cls, settings: FlowAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> FlowAnchor:
        inputs = tensors["network.0.weight"].shape[-2]
        outputs = tensors[f"network.{len(settings.hidden)}.weight"].shape[-1]
        network = Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "network", device)
        return cls(network, settings.flow_steps)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return self._follow(observations, observations.new_zeros(*observations.shape[:2], self.network.shape.outputs))

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = normal(generators, observations.shape[1], self.network.shape.outputs)
        return self._follow(observations, noise.to(observations.device))

    def _follow(self, observations: Tensor, points: Tensor) -> Tensor:
        """Where the flow carries points [S, B, A], clipped to the box."""
        for i in range(self.flow_steps):
            times = points.new_full((*points.shape[:2], 1), i / self.flow_steps)
            points = points + velocity(self.network, observations, points, times) / self.flow_steps
        return points.clamp(-1.0, 1.0)
