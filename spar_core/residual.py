r"""The residual model G: a conditional VAE over what the anchor leaves unexplained (SPAR, stage i).

With residuals :math:`r = a - a_b` between the data's actions and the anchor's, a radius :math:`\rho` for each action
dimension, and a latent :math:`z`:

.. math:: G_\phi(s, a_b, z) = \rho \tanh(\mathrm{MLP}_\phi(s, a_b, z)), \qquad
   \min_{\phi, \psi} \; \mathbb{E} \Big\lVert \frac{r - G_\phi(s, a_b, z)}{\rho} \Big\rVert^2
   + \beta \, \mathrm{KL}\big(q_\psi(z \mid s, a_b, r) \,\Vert\, \mathcal{N}(0, I)\big)

:math:`\rho_d` is ``radius_margin`` times a high quantile of :math:`|r_d|` over the training steps. Residuals span a box
of that radius. How small it is against the action box says how far the search space is contracted.

:math:`a_b` is the anchor's deterministic action. With ``base: sample`` it is a sample of the anchor, so that G is
fitted to every action that a stochastic anchor may give. An anchor that can look its training data up answers without
the step's own episode (``Anchor.act_on_steps``); otherwise its residuals and the radius would vanish.

Source: "residual regression" in SPAR (arXiv 2605.27877). The conditional VAE (Sohn et al. 2015), the radius and the
loss are this project's reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.settings import parse
from spar_core.training.autoencoder import divergence, encode, latent_size
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Info, minimise
from spar_core.training.networks import CHUNK, MLPShape, Stack, per_seed_mean
from spar_core.training.optimiser import DecayingSettings
from spar_core.training.randomness import Draws, Minibatches, gaussian, streams


class ResidualSettings(DecayingSettings):
    """The ``residual`` section of ``params.yaml``."""

    latent_per_action: float = Field(2.0, gt=0, description="latent dimensions for each action dimension")
    beta: float = Field(0.05, ge=0, description="weight of the KL term, per nat")
    base: Literal["action", "sample"] = Field(
        "action", description="what residuals are taken from: the anchor's action, or a sample of the anchor"
    )
    radius_quantile: float = Field(
        0.99, gt=0, le=1, description="quantile of the absolute residual that sets the radius, per action dimension"
    )
    radius_margin: float = Field(1.1, gt=0, description="factor from that quantile to the radius")
    radius_floor: float = Field(0.01, gt=0, description="smallest radius, in units of the action box [-1, 1]")


def settings_for(
    anchor: str, common: Mapping[str, Any], anchors: Mapping[str, Any], where: str = "params.yaml"
) -> ResidualSettings:
    """Settings of an anchor's residual model.

    Args:
        anchor: name of the variant.
        common: the section ``residual``.
        anchors: the section ``anchors``; a key ``residual`` of the anchor takes precedence over ``common``.
        where: the file that error lines name.

    Raises:
        SparError: a key or its value is not valid.
    """
    own = (anchors.get(anchor) or {}).get("residual") or {}
    return parse(ResidualSettings, {**common, **own}, f"{where}, residual of anchor '{anchor}'")


class ResidualModel:
    """The frozen decoder and its radius [S, A]."""

    def __init__(self, decoder: Stack, radius: Tensor, latent_size: int) -> None:
        self.decoder, self.radius, self.latent_size = decoder, radius, latent_size

    def decode(self, observations: Tensor, base: Tensor, latents: Tensor) -> Tensor:
        """Residuals [S, B, A] within the radius, for observations, anchor actions and latents [S, B, .]."""
        inputs = torch.cat([observations, base, latents], dim=-1)
        return self.radius.unsqueeze(1) * torch.tanh(self.decoder(inputs))

    @classmethod
    def restore(cls, settings: ResidualSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> ResidualModel:
        """The frozen model of the tensors that :func:`fit_residual` returned."""
        inputs, radius = tensors["decoder.0.weight"].shape[-2], tensors["radius"].to(device)
        shape = MLPShape(inputs, settings.hidden, radius.shape[-1])
        decoder = Stack.restore(shape, tensors, "decoder", device)
        return cls(decoder, radius, latent_size(settings.latent_per_action, radius.shape[-1]))


def learned_radius(residuals: Tensor, settings: ResidualSettings) -> Tensor:
    """Radius [S, A] from residuals [S, n, A]."""
    # One column at a time, because finding a quantile copies what it sorts.
    quantiles = [
        torch.stack([column.abs().kthvalue(_rank(settings.radius_quantile, len(column))).values for column in rows.T])
        for rows in residuals
    ]
    # Two actions in [-1, 1] differ by at most 2.
    return (settings.radius_margin * torch.stack(quantiles)).clamp(settings.radius_floor, 2.0)


def _rank(quantile: float, n: int) -> int:
    return min(n, max(1, round(quantile * n)))


def residual_loss(
    encoder: Stack,
    model: ResidualModel,
    observations: Tensor,
    base: Tensor,
    residuals: Tensor,
    noise: Tensor,
    beta: float,
) -> tuple[Tensor, Info]:
    """Squared error in units of the radius, summed over action dimensions, plus beta times the KL, for each seed.

    Args:
        encoder: gives mean and log standard deviation of z.
        model: the decoder and its radius.
        observations: [S, B, D].
        base: the anchor's actions [S, B, A].
        residuals: [S, B, A].
        noise: standard normal, [S, B, Z].
        beta: weight of the KL.
    """
    radius = model.radius.unsqueeze(1)
    mean, log_std = encode(encoder, observations, base, residuals / radius)
    decoded = model.decode(observations, base, mean + log_std.exp() * noise)
    error = per_seed_mean(((decoded - residuals) / radius).square().sum(-1))
    kl = divergence(mean, log_std)
    info = {"residual/reconstruction": error.detach(), "residual/kl": kl.detach()}
    return (error + beta * kl).sum(), info


def fit_residual(context: Context, anchor: Anchor, settings: ResidualSettings) -> Fitted:
    """Fit G and its radius to the training steps, for a frozen anchor of the same seeds."""
    dataset, data, seeds, device = context.dataset, context.data, context.seeds, context.device
    train, heldout = (torch.as_tensor(steps).to(device) for steps in (dataset.train_steps, dataset.heldout_steps))
    draws = streams(seeds, "residual/base") if settings.base == "sample" else None
    base = anchor.act_on_data(data, len(seeds), draws)
    residuals = data.actions - base
    radius = learned_radius(residuals[:, train], settings)
    limit = radius.unsqueeze(1)
    clipped = [(rows[train].abs() > r).float().mean().item() for rows, r in zip(residuals, limit, strict=True)]
    residuals = residuals.clamp(-limit, limit)

    latents = latent_size(settings.latent_per_action, dataset.action_size)
    inputs = dataset.observation_size + dataset.action_size
    decoder = Stack(MLPShape(inputs + latents, settings.hidden, dataset.action_size), len(seeds), device)
    encoder = Stack(MLPShape(inputs + dataset.action_size, settings.hidden, 2 * latents), len(seeds), device)
    decoder.initialise(streams(seeds, "residual/decoder"))
    encoder.initialise(streams(seeds, "residual/encoder"))
    model = ResidualModel(decoder, radius, latents)

    def loss(steps: Tensor, noise: Tensor) -> tuple[Tensor, Info]:
        at = data.observations[data.index[steps]], base[context.rows, steps], residuals[context.rows, steps]
        return residual_loss(encoder, model, *at, noise, settings.beta)

    drawn = {
        "batches": Minibatches(dataset.train_steps, seeds, settings.batch_size, "residual/batches", device),
        "noise": Draws(seeds, "residual/noise", gaussian(settings.batch_size, latents), device),
    }
    minimise(loss, context, settings.adam(encoder, decoder), drawn, name="residual", steps=settings.steps)

    centre = _decode_zero(model, data.observations[data.index], base)
    metrics = {
        "residual/radius_mean": [row.mean().item() for row in radius],
        # Volume of the box of residuals as a share of the action box [-1, 1]^A.
        "residual/box_share": [row.clamp(max=1.0).prod().item() for row in radius],
        "residual/clipped_share": clipped,
        "residual/norm_train": _mean_norm(residuals, train),
        "residual/norm_heldout": _mean_norm(residuals, heldout),
        "residual/norm_at_zero_latent": _mean_norm(centre, train),
        "residual/reconstruction": context.report.last("residual/reconstruction"),
        "residual/kl": context.report.last("residual/kl"),
    }
    return Fitted({**decoder.state("decoder", len(seeds)), "radius": radius.cpu()}, metrics, context.report.rows)


@torch.no_grad()
def _decode_zero(model: ResidualModel, observations: Tensor, base: Tensor) -> Tensor:
    """G at z = 0 on all steps, [S, N, A]: the residual that SPAR-PROJ starts from."""
    parts = []
    for start in range(0, len(observations), CHUNK):
        here = base[:, start : start + CHUNK]
        shared = observations[start : start + CHUNK].unsqueeze(0).expand(len(base), -1, -1)
        parts.append(model.decode(shared, here, here.new_zeros(*here.shape[:2], model.latent_size)))
    return torch.cat(parts, dim=1)


def _mean_norm(residuals: Tensor, steps: Tensor) -> list[float]:
    """Mean length of the residuals at the given steps, for each seed."""
    return [rows[steps].norm(dim=-1).mean().item() for rows in residuals]
