r"""A conditional variational autoencoder of actions.

Objective, over the training steps (s, a) of the dataset, with a latent z:

.. math:: \min_{\phi, \psi} \; \mathbb{E} \lVert a - D_\phi(s, z) \rVert^2
          + \beta \, \mathrm{KL}\big(q_\psi(z \mid s, a) \,\Vert\, \mathcal{N}(0, I)\big), \qquad
          D_\phi(s, z) = \tanh(\mathrm{MLP}_\phi(s, z)), \; z \sim q_\psi

The deterministic action decodes z = 0, the prior's mode; a sample decodes a draw of the prior. The encoder is
thrown away.

Source: Sohn et al. 2015, as the generative model of BCQ (Fujimoto et al. 2019, equation 14 and appendix D). BCQ
averages the error over action dimensions and the KL over latent ones, with weight 1/2, which is :math:`\beta = 1/4`
here, where both are sums. It also clips the latents it draws to [-1/2, 1/2]; here they are draws of the whole prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.training import TrainedAnchorSettings, train
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import Draws, gaussian, normal, streams

# Bounds of the encoder's log standard deviation, against overflow of its exponential.
LOG_STD_RANGE = (-8.0, 2.0)


class CVAEAnchorSettings(TrainedAnchorSettings):
    latent_per_action: float = Field(2.0, gt=0)
    beta: float = Field(0.25, ge=0)


def latent_size(settings: CVAEAnchorSettings, action_size: int) -> int:
    """Dimensions of z."""
    return max(1, round(settings.latent_per_action * action_size))


def decode(decoder: Stack, observations: Tensor, latents: Tensor) -> Tensor:
    """Actions [S, B, A] of observations and latents [S, B, .]."""
    return torch.tanh(decoder(torch.cat([observations, latents], dim=-1)))


def autoencoding_loss(
    encoder: Stack, decoder: Stack, observations: Tensor, actions: Tensor, noise: Tensor, beta: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error summed over action dimensions, plus beta times the KL, a value a seed."""
    mean, log_std = encoder(torch.cat([observations, actions], dim=-1)).chunk(2, dim=-1)
    log_std = log_std.clamp(*LOG_STD_RANGE)
    decoded = decode(decoder, observations, mean + log_std.exp() * noise)
    error = per_seed_mean((decoded - actions).square().sum(-1))
    kl = per_seed_mean((0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1))
    loss = error + beta * kl
    info = {"anchor/loss": loss.detach(), "anchor/reconstruction": error.detach(), "anchor/kl": kl.detach()}
    return loss.sum(), info


class CVAEAnchor(Anchor):
    """The decoder of a conditional variational autoencoder."""

    Settings = CVAEAnchorSettings
    stochastic = True

    def __init__(self, decoder: Stack, latents: int) -> None:
        self.decoder, self.latents = decoder, latents

    @classmethod
    def clone(cls, context: Context, settings: CVAEAnchorSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        n = len(seeds)
        latents = latent_size(settings, dataset.action_size)
        decoder = Stack(MLPShape(dataset.observation_size + latents, settings.hidden, dataset.action_size), n, device)
        inputs = dataset.observation_size + dataset.action_size
        encoder = Stack(MLPShape(inputs, settings.hidden, 2 * latents), n, device)
        decoder.initialise(streams(seeds, "anchor/initialise"))
        encoder.initialise(streams(seeds, "anchor/encoder"))
        noise = Draws(seeds, "anchor/noise", gaussian(settings.batch_size, latents), device)

        def loss_of(observations: Tensor, actions: Tensor, eps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return autoencoding_loss(encoder, decoder, observations, actions, eps, settings.beta)

        train(cls(decoder, latents), [encoder, decoder], loss_of, dataset, settings, seeds, report, device, noise=noise)
        return Fitted(decoder.state("decoder", n), curves=report.rows)

    @classmethod
    def restore(cls, settings: CVAEAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> CVAEAnchor:
        inputs = tensors["decoder.0.weight"].shape[-2]
        outputs = tensors[f"decoder.{len(settings.hidden)}.weight"].shape[-1]
        decoder = Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "decoder", device)
        return cls(decoder, latent_size(settings, outputs))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return decode(self.decoder, observations, observations.new_zeros(*observations.shape[:2], self.latents))

    @torch.no_grad()
    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        latents = normal(generators, observations.shape[1], self.latents).to(observations.device)
        return decode(self.decoder, observations, latents)
