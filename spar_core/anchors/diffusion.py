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
follow the variance-preserving process of Song et al. 2021. Diffusion-QL's guidance by a critic is no part of it, and
the level enters as sines and cosines without a network of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from pydantic import PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.training import TrainedAnchorSettings, train
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal, streams

# Held-out steps behind a point of the learning curve; an action costs ``diffusion_steps`` forward passes.
CURVE_STEPS = 1024
# Ends of the variance-preserving process's rate (Song et al. 2021; the values are Diffusion-QL's).
RATE_RANGE = (0.1, 10.0)
# Frequencies, in half turns over the whole chain, of the features by which the network knows the level.
FREQUENCIES = (1, 2, 4)


class DiffusionAnchorSettings(TrainedAnchorSettings):
    diffusion_steps: PositiveInt = 10


@dataclass(frozen=True)
class Level:
    """What one level t of the noising chain does.

    Attributes:
        features: by which the network knows the level.
        signal, noise: shares of the action and of the noise in x_t.
        from_clean, from_here, deviation: of the posterior of x_{t-1}, given x_0 and x_t.
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
    network: Stack, levels: Tensor, observations: Tensor, actions: Tensor, noise: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the predicted noise, a value a seed.

    Args:
        network: predicts the noise.
        levels: signal, noise, and features of each row's level, [S, B, 2 + features].
        observations: [S, B, D].
        actions: [S, B, A].
        noise: [S, B, A].
    """
    noised = levels[..., :1] * actions + levels[..., 1:2] * noise
    predicted = network(torch.cat([observations, noised, levels[..., 2:]], dim=-1))
    error = per_seed_mean((predicted - noise).square())
    return error.sum(), {"anchor/loss": error.detach()}


class DiffusionAnchor(Anchor):
    """A network that predicts noise, and the levels of the chain."""

    Settings = DiffusionAnchorSettings
    stochastic = True

    def __init__(self, network: Stack, levels: list[Level]) -> None:
        self.network, self.levels = network, levels

    @classmethod
    def clone(cls, context: Context, settings: DiffusionAnchorSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        size, batch = dataset.action_size, settings.batch_size
        levels = variance_preserving(settings.diffusion_steps)
        table = torch.tensor([(level.signal, level.noise, *level.features) for level in levels])
        shape = MLPShape(dataset.observation_size + size + len(levels[0].features), settings.hidden, size)
        network = Stack(shape, len(seeds), device).initialise(streams(seeds, "anchor/initialise"))

        def levels_of(generator: torch.Generator, n: int) -> Tensor:
            picks = [torch.randint(len(table), (batch,), generator=generator) for _ in range(n)]
            return table[torch.stack(picks)]

        draws = {
            "drawn": Draws(seeds, "anchor/levels", levels_of, device),
            "noise": Draws(seeds, "anchor/noise", gaussian(batch, size), device),
        }

        def loss_of(
            observations: Tensor, actions: Tensor, drawn: Tensor, eps: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            return denoising_loss(network, drawn, observations, actions, eps)

        train(cls(network, levels), [network], loss_of, dataset, settings, seeds, report, device, **draws)
        return Fitted(network.state("network", len(seeds)), curves=report.rows)

    @classmethod
    def restore(
        cls, settings: DiffusionAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> DiffusionAnchor:
        inputs = tensors["network.0.weight"].shape[-2]
        outputs = tensors[f"network.{len(settings.hidden)}.weight"].shape[-1]
        network = Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "network", device)
        return cls(network, variance_preserving(settings.diffusion_steps))

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
            # The last step's deviation is zero.
            if level.deviation > 0:
                x = x + level.deviation * normal(generators, *dims).to(x.device)
        return x.clamp(-1.0, 1.0)

    def _posterior_mean(self, level: Level, observations: Tensor, x: Tensor) -> Tensor:
        """Mean of x_{t-1} given x_t, [S, B, A] each."""
        features = x.new_tensor(level.features).expand(*x.shape[:2], -1)
        predicted = self.network(torch.cat([observations, x, features], dim=-1))
        clean = ((x - level.noise * predicted) / level.signal).clamp(-1.0, 1.0)
        return level.from_clean * clean + level.from_here * x
