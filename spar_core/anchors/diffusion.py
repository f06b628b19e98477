r"""A denoising diffusion model of actions.

Objective, over the training steps (s, a) of the dataset, noise :math:`\epsilon \sim \mathcal{N}(0, I)` and levels t
uniform in 1 .. T:

.. math:: \min_\theta \; \mathbb{E} \big\lVert \epsilon - \epsilon_\theta(s, x_t, t) \big\rVert^2, \qquad
          x_t = \sqrt{\bar\alpha_t} \, a + \sqrt{1 - \bar\alpha_t} \, \epsilon

A sample runs the chain from a normal :math:`x_T` down to :math:`x_0`. At each level the estimate

.. math:: \hat{x}_0 = \big(x_t - \sqrt{1 - \bar\alpha_t} \, \epsilon_\theta\big) / \sqrt{\bar\alpha_t}

is clipped to the box, and :math:`x_{t-1}` is drawn from the posterior of the noising chain given
:math:`\hat{x}_0`. The deterministic action starts at :math:`x_T = 0` and takes the posterior means.

Source: DDPM (Ho et al. 2020, equations 6, 7, 14 and 15), with the levels of Diffusion-QL (Wang et al. 2023), which
follow the variance-preserving process of Song et al. 2021. Diffusion-QL's guidance by a critic is left out, and the
level enters as sines and cosines without a network of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal

# Ends of the variance-preserving process's rate (Song et al. 2021; the values are Diffusion-QL's).
RATE_RANGE = (0.1, 10.0)
# Frequencies, in half turns over the whole chain, of the features that tell the network the level.
FREQUENCIES = (1, 2, 4)
# Features of a level: its share of the chain, and a sine and a cosine of each frequency.
FEATURES = 1 + 2 * len(FREQUENCIES)


class DiffusionAnchorSettings(TrainedAnchorSettings):
    """Settings of a denoising diffusion model."""

    diffusion_steps: PositiveInt = Field(10, description="T, denoising steps; an action costs as many forward passes")


@dataclass(frozen=True)
class Level:
    """One level t of the noising chain.

    Attributes:
        features: tell the network the level.
        signal: factor of the action in x_t.
        noise: factor of the noise in x_t.
        from_clean: factor of x_0 in the mean of x_{t-1}, given x_0 and x_t.
        from_here: factor of x_t in that mean.
        deviation: standard deviation of x_{t-1}, given x_0 and x_t.
    """

    features: tuple[float, ...]
    signal: float
    noise: float
    from_clean: float
    from_here: float
    deviation: float


def variance_preserving(steps: int) -> list[Level]:
    """The levels 1 .. T of the variance-preserving process, cut into ``steps`` pieces."""
    low, high = RATE_RANGE
    alphas = [math.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2) for t in range(1, steps + 1)]
    kept = list(accumulate(alphas, lambda a, b: a * b, initial=1.0))
    levels = []
    for t, (alpha, (before, here)) in enumerate(zip(alphas, pairwise(kept), strict=True), start=1):
        angles = [math.pi * f * t / steps for f in FREQUENCIES]
        levels.append(
            Level(
                (t / steps, *map(math.sin, angles), *map(math.cos, angles)),
                math.sqrt(here),
                math.sqrt(1.0 - here),
                math.sqrt(before) * (1.0 - alpha) / (1.0 - here),
                math.sqrt(alpha) * (1.0 - before) / (1.0 - here),
                math.sqrt((1.0 - alpha) * (1.0 - before) / (1.0 - here)),
            )
        )
    return levels


def denoising_loss(
    network: Stack, observations: Tensor, actions: Tensor, levels: Tensor, noise: Tensor
) -> tuple[Tensor, Info]:
    """Mean squared error of the predicted noise, for each seed.

    Args:
        network: predicts the noise.
        observations: [S, B, D].
        actions: [S, B, A].
        levels: signal, noise, and features of each row's level, [S, B, 2 + features].
        noise: [S, B, A].
    """
    noised = levels[..., :1] * actions + levels[..., 1:2] * noise
    predicted = network(torch.cat([observations, noised, levels[..., 2:]], dim=-1))
    error = per_seed_mean((predicted - noise).square())
    return error.sum(), {"anchor/loss": error.detach()}


class DiffusionAnchor(NetworkAnchor):
    """A network that predicts noise, and the levels of the chain."""

    Settings = DiffusionAnchorSettings
    settings: DiffusionAnchorSettings
    stochastic = True

    def __init__(self, network: Stack, settings: DiffusionAnchorSettings) -> None:
        super().__init__(network, settings)
        self.levels = variance_preserving(settings.diffusion_steps)

    @classmethod
    def sizes(cls, settings: DiffusionAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size + action_size + FEATURES, action_size

    def objective(self, context: Context) -> Objective:
        batch, size = self.settings.batch_size, self.network.shape.outputs
        table = torch.tensor([(level.signal, level.noise, *level.features) for level in self.levels])

        def levels(generator: torch.Generator, n: int) -> Tensor:
            picks = [torch.randint(len(table), (batch,), generator=generator) for _ in range(n)]
            return table[torch.stack(picks)]

        draws = {
            "levels": Draws(context.seeds, "anchor/levels", levels, context.device),
            "noise": Draws(context.seeds, "anchor/noise", gaussian(batch, size), context.device),
        }
        return Objective(partial(denoising_loss, self.network), draws)

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        x = observations.new_zeros(*observations.shape[:2], self.network.shape.outputs)
        for level in reversed(self.levels):
            x = self._posterior_mean(level, observations, x)
        return x.clamp(-1.0, 1.0)

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        dims = observations.shape[1], self.network.shape.outputs
        x = normal(generators, *dims).to(observations.device)
        for level in reversed(self.levels):
            x = self._posterior_mean(level, observations, x)
            # The deviation of the last step is zero.
            if level.deviation > 0:
                x = x + level.deviation * normal(generators, *dims).to(x.device)
        return x.clamp(-1.0, 1.0)

    def _posterior_mean(self, level: Level, observations: Tensor, x: Tensor) -> Tensor:
        """Mean of x_{t-1} given x_t, [S, B, A] each."""
        features = x.new_tensor(level.features).expand(*x.shape[:2], -1)
        predicted = self.network(torch.cat([observations, x, features], dim=-1))
        clean = ((x - level.noise * predicted) / level.signal).clamp(-1.0, 1.0)
        return level.from_clean * clean + level.from_here * x
