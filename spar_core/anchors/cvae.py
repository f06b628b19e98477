r"""A conditional variational autoencoder of actions.

Objective, over the training steps (s, a) of the dataset, with a latent z:

.. math:: \min_{\phi, \psi} \; \mathbb{E} \lVert a - D_\phi(s, z) \rVert^2
          + \beta \, \mathrm{KL}\big(q_\psi(z \mid s, a) \,\Vert\, \mathcal{N}(0, I)\big), \qquad
          D_\phi(s, z) = \tanh(\mathrm{MLP}_\phi(s, z)), \; z \sim q_\psi

The deterministic action decodes z = 0, the mode of the prior. A sample decodes a draw of the prior. The encoder serves
training alone.

Source: Sohn et al. 2015, as the generative model of BCQ (Fujimoto et al. 2019, equation 14 and appendix D). BCQ
averages the error over action dimensions and the KL over latent dimensions, with weight 1/2. Here both are sums; with
two latent dimensions for each action dimension, that weight is :math:`\beta = 1/4`. BCQ also clips the latents that it
draws to [-1/2, 1/2]; here they are not clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.autoencoder import divergence, encode, latent_size
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal, streams


class CVAEAnchorSettings(TrainedAnchorSettings):
    """Settings of a conditional variational autoencoder."""

    latent_per_action: float = Field(2.0, gt=0, description="latent dimensions for each action dimension")
    beta: float = Field(0.25, ge=0, description="weight of the KL term, per nat")


def decode(decoder: Stack, observations: Tensor, latents: Tensor) -> Tensor:
    """Actions [S, B, A] of observations [S, B, D] and latents [S, B, Z]."""
    return torch.tanh(decoder(torch.cat([observations, latents], dim=-1)))


def autoencoding_loss(
    encoder: Stack, decoder: Stack, observations: Tensor, actions: Tensor, noise: Tensor, beta: float
) -> tuple[Tensor, Info]:
    """Squared error summed over action dimensions, plus beta times the KL, for each seed; noise is [S, B, Z]."""
    mean, log_std = encode(encoder, observations, actions)
    decoded = decode(decoder, observations, mean + log_std.exp() * noise)
    error = per_seed_mean((decoded - actions).square().sum(-1))
    kl = divergence(mean, log_std)
    loss = error + beta * kl
    info = {"anchor/loss": loss.detach(), "anchor/reconstruction": error.detach(), "anchor/kl": kl.detach()}
    return loss.sum(), info


class CVAEAnchor(NetworkAnchor):
    """The decoder of a conditional variational autoencoder."""

    Settings = CVAEAnchorSettings
    settings: CVAEAnchorSettings
    network_name = "decoder"
    stochastic = True

    def __init__(self, network: Stack, settings: CVAEAnchorSettings) -> None:
        super().__init__(network, settings)
        self.latents = latent_size(settings.latent_per_action, network.shape.outputs)

    @classmethod
    def sizes(cls, settings: CVAEAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size + latent_size(settings.latent_per_action, action_size), action_size

    def objective(self, context: Context) -> Objective:
        settings, dataset, seeds = self.settings, context.dataset, context.seeds
        shape = MLPShape(dataset.observation_size + dataset.action_size, settings.hidden, 2 * self.latents)
        encoder = Stack(shape, len(seeds), context.device).initialise(streams(seeds, "anchor/encoder"))
        noise = Draws(seeds, "anchor/noise", gaussian(settings.batch_size, self.latents), context.device)
        loss = partial(autoencoding_loss, encoder, self.network, beta=settings.beta)
        return Objective(loss, {"noise": noise}, helpers=(encoder,))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return decode(self.network, observations, observations.new_zeros(*observations.shape[:2], self.latents))

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        latents = normal(generators, observations.shape[1], self.latents).to(observations.device)
        return decode(self.network, observations, latents)
