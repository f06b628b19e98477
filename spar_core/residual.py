r"""The residual model G: a conditional VAE over what the anchor leaves unexplained (SPAR, stage i).

With residuals :math:`r = a - a_b` of the data's actions from the anchor's, a radius :math:`\rho` per action
dimension, and a latent :math:`z`:

.. math:: G_\phi(s, a_b, z) = \rho \tanh(\mathrm{MLP}_\phi(s, a_b, z)), \qquad
   \min_{\phi, \psi} \; \mathbb{E} \Big\lVert \frac{r - G_\phi(s, a_b, z)}{\rho} \Big\rVert^2
   + \beta \, \mathrm{KL}\big(q_\psi(z \mid s, a_b, r) \,\Vert\, \mathcal{N}(0, I)\big)

:math:`\rho_d` is ``radius_margin`` times a high quantile of :math:`|r_d|` over the training steps. The box
it spans, against the whole action box, is the contraction of the search space.

:math:`a_b` is the anchor's deterministic action, or with ``base: sample`` a draw of it, so that G knows what to do
beside every action that a stochastic anchor may give. An anchor that can look its training data up answers
without the step's own episode (``Anchor.act_on_steps``), or its residuals, and with them the radius, would vanish.

Source: "residual regression" in SPAR (arXiv 2605.27877); that the model is a conditional VAE (Sohn et al.
2015), its radius and its loss are this project's reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.data.device import DeviceData
from spar_core.settings import Settings, parse
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import CHUNK, Adam, MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import Draws, Minibatches, gaussian, streams
from spar_core.training.reporter import is_curve_point

# Bounds of the encoder's log standard deviation, against overflow of its exponential.
LOG_STD_RANGE = (-8.0, 2.0)


class ResidualSettings(Settings):
    steps: PositiveInt = 6000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(1e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 256)
    latent_per_action: float = Field(2.0, gt=0)
    beta: float = Field(0.05, ge=0)
    base: Literal["action", "sample"] = "action"
    radius_quantile: float = Field(0.99, gt=0, le=1)
    radius_margin: float = Field(1.1, gt=0)
    radius_floor: float = Field(0.01, gt=0)


def settings_for(anchor: str, common: Mapping[str, Any], anchors: Mapping[str, Any]) -> ResidualSettings:
    """Settings of an anchor's residual model: the section ``residual``, with the anchor's own ``residual`` over it.

    Raises:
        SparError: a key is wrong.
    """
    own = (anchors.get(anchor) or {}).get("residual") or {}
    return parse(ResidualSettings, {**common, **own}, f"params.yaml, residual of anchor '{anchor}'")


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
        return cls(decoder, radius, latent_size(settings, radius.shape[-1]))


def latent_size(settings: ResidualSettings, action_size: int) -> int:
    """Dimensions of z."""
    return max(1, round(settings.latent_per_action * action_size))


def learned_radius(residuals: Tensor, settings: ResidualSettings) -> Tensor:
    """Radius [S, A] from residuals [S, n, A] (one seed at a time: a quantile sorts, and sorting is large)."""
    quantiles = [
        torch.stack([column.abs().kthvalue(_rank(settings.radius_quantile, len(column))).values for column in rows.T])
        for rows in residuals
    ]
    # A residual of two actions in [-1, 1] is never longer than 2.
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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error in units of the radius, summed over action dimensions, plus beta times the KL."""
    scaled = residuals / model.radius.unsqueeze(1)
    mean, log_std = encoder(torch.cat([observations, base, scaled], dim=-1)).chunk(2, dim=-1)
    log_std = log_std.clamp(*LOG_STD_RANGE)
    decoded = model.decode(observations, base, mean + log_std.exp() * noise)
    error = per_seed_mean(((decoded - residuals) / model.radius.unsqueeze(1)).square().sum(-1))
    kl = per_seed_mean((0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1))
    info = {"residual/reconstruction": error.detach(), "residual/kl": kl.detach()}
    return (error + beta * kl).sum(), info


def fit_residual(
    context: Context,
    anchor: Anchor,
    settings: ResidualSettings,
) -> Fitted:
    """Fit G and its radius to the training steps, for a frozen anchor of the same seeds."""
    dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
    n = len(seeds)
    data = DeviceData.of(dataset, device)
    train = torch.as_tensor(dataset.train_steps).to(device)
    draws = streams(seeds, "residual/base") if settings.base == "sample" else None
    base = anchor.act_on_data(data, n, draws)
    residuals = data.actions - base
    radius = learned_radius(residuals[:, train], settings)
    limit = radius.unsqueeze(1)
    clipped = [(rows[train].abs() > r).float().mean().item() for rows, r in zip(residuals, limit, strict=True)]
    residuals = residuals.clamp(-limit, limit)

    latents = latent_size(settings, dataset.action_size)
    inputs = dataset.observation_size + dataset.action_size
    decoder = Stack(MLPShape(inputs + latents, settings.hidden, dataset.action_size), n, device)
    encoder = Stack(MLPShape(inputs + dataset.action_size, settings.hidden, 2 * latents), n, device)
    decoder.initialise(streams(seeds, "residual/decoder"))
    encoder.initialise(streams(seeds, "residual/encoder"))
    model = ResidualModel(decoder, radius, latents)
    adam = Adam(settings.learning_rate, encoder, decoder, decay_steps=settings.steps if settings.cosine_decay else None)
    batches = Minibatches(train.cpu(), seeds, settings.batch_size, "residual/batches", device)
    noise = Draws(seeds, "residual/noise", gaussian(settings.batch_size, latents), device)
    rows = torch.arange(n, device=device).unsqueeze(1)

    def update(steps: Tensor, eps: Tensor) -> dict[str, Tensor]:
        observations = data.observations[data.index[steps]]
        loss, info = residual_loss(
            encoder, model, observations, base[rows, steps], residuals[rows, steps], eps, settings.beta
        )
        adam.step(loss)
        return info

    run = Update(update, adam, device, settings.steps)
    for step in resumable(report, "residual", settings.steps, adam=adam, batches=batches, noise=noise):
        info = run(batches.next(), noise.next())
        if is_curve_point(step, settings.steps):
            report.log(step, info)

    heldout = torch.as_tensor(dataset.heldout_steps).to(device)
    centre = _decode_zero(model, data.observations[data.index], base)
    metrics = {
        "residual/radius_mean": [row.mean().item() for row in radius],
        # Volume of the box of residuals as a share of the action box [-1, 1]^A.
        "residual/box_share": [(row / 1.0).clamp(max=1.0).prod().item() for row in radius],
        "residual/clipped_share": clipped,
        "residual/norm_train": _mean_norm(residuals, train),
        "residual/norm_heldout": _mean_norm(residuals, heldout),
        "residual/norm_at_zero_latent": _mean_norm(centre, train),
        "residual/reconstruction": report.last("residual/reconstruction"),
        "residual/kl": report.last("residual/kl"),
    }
    return Fitted({**decoder.state("decoder", n), "radius": radius.cpu()}, metrics, report.rows)


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
    return [rows[steps].norm(dim=-1).mean().item() for rows in residuals]
