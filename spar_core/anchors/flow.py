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

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal, uniform


class FlowAnchorSettings(TrainedAnchorSettings):
    """Settings of conditional flow matching."""

    flow_steps: PositiveInt = Field(10, description="Euler steps from noise to action")


def velocity(network: Stack, observations: Tensor, points: Tensor, times: Tensor) -> Tensor:
    """v [S, B, A] at points [S, B, A] and times [S, B, 1]."""
    return network(torch.cat([observations, points, times], dim=-1))


def matching_loss(
    network: Stack, observations: Tensor, actions: Tensor, noise: Tensor, times: Tensor
) -> tuple[Tensor, Info]:
    """Mean squared error of the velocity on straight paths from noise [S, B, A] to actions, for each seed.

    The times are [S, B, 1].
    """
    points = (1.0 - times) * noise + times * actions
    error = per_seed_mean((velocity(network, observations, points, times) - (actions - noise)).square())
    return error.sum(), {"anchor/loss": error.detach()}


class FlowAnchor(NetworkAnchor):
    """A velocity field, followed by Euler steps."""

    Settings = FlowAnchorSettings
    settings: FlowAnchorSettings
    stochastic = True

    @classmethod
    def sizes(cls, settings: FlowAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size + action_size + 1, action_size

    def objective(self, context: Context) -> Objective:
        batch, size = self.settings.batch_size, self.network.shape.outputs
        draws = {
            "noise": Draws(context.seeds, "anchor/noise", gaussian(batch, size), context.device),
            "times": Draws(context.seeds, "anchor/times", uniform(batch, 1), context.device),
        }
        return Objective(partial(matching_loss, self.network), draws)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return self._follow(observations, observations.new_zeros(*observations.shape[:2], self.network.shape.outputs))

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = normal(generators, observations.shape[1], self.network.shape.outputs)
        return self._follow(observations, noise.to(observations.device))

    def _follow(self, observations: Tensor, points: Tensor) -> Tensor:
        """Where the flow carries points [S, B, A], clipped to the box."""
        steps = self.settings.flow_steps
        for i in range(steps):
            times = points.new_full((*points.shape[:2], 1), i / steps)
            points = points + velocity(self.network, observations, points, times) / steps
        return points.clamp(-1.0, 1.0)
