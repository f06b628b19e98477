r"""Advantage-weighted regression on the data's own actions, as a residual on the anchor (a comparator).

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \; \min\big(e^{\beta (Q_c(s, a) - V(s))}, w_{\max}\big)
   \Big\lVert \frac{\Delta_\theta(s, a_b) - (a - a_b)}{\rho} \Big\rVert^2

Source: the policy extraction of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eq. 7), after AWR (Peng et al.
2019). Deviations: squared error in place of a likelihood, the correction's box (targets clipped inside it),
and the anchor below it, so that SPAR and AWR differ in what they imitate only.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from spar_core.data.device import DeviceData
from spar_core.improvement.actors import NetworkSettings, ResidualActor, ResidualNetworkSettings
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.on_data import correction_norm, minimise_on_data
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import CHUNK, per_seed_mean


class WeightSettings(NetworkSettings):
    """Settings of every regression that advantages weigh."""

    inverse_temperature: float = Field(3.0, ge=0)
    largest_weight: float = Field(100.0, gt=0)


class AWRSettings(WeightSettings, ResidualNetworkSettings):
    """... of the residual on the anchor."""


def weighted_loss(predicted: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted squared error of [S, B, A], weights [S, B]."""
    error = per_seed_mean(weights.unsqueeze(-1) * (predicted - targets).square())
    return error.sum(), {"improvement/loss": error.detach(), "improvement/weight_mean": per_seed_mean(weights)}


class AWR(ResidualActor, Improvement):
    """The network of SPAR-MLP, fitted to the data's residuals instead of to candidates."""

    Settings = AWRSettings

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: WeightSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        rule = cls.at_step_zero(dataset, frozen, settings, seeds, device)
        data = DeviceData.of(dataset, device)
        weights = advantage_weights(frozen, data, settings, len(seeds))
        base = frozen.anchor.act_on_data(data, len(seeds))
        targets = rule.targets(data.actions, base)
        rows = torch.arange(len(seeds), device=device).unsqueeze(1)

        def loss_of(picked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            predicted = rule.bounded(data.observations[data.index[picked]], base[rows, picked])
            return weighted_loss(predicted, targets[rows, picked], weights[rows, picked])

        minimise_on_data(rule.network, loss_of, dataset, settings, seeds, report, device)
        metrics = {
            "improvement/loss": report.last("improvement/loss"),
            "improvement/correction_norm": correction_norm(rule, dataset, data, base),
            "improvement/weight_mean": [row.mean().item() for row in weights],
            "improvement/weight_clipped_share": [
                (row >= settings.largest_weight).float().mean().item() for row in weights
            ],
        }
        return Fitted(rule.network.state("network", len(seeds)), metrics, report.rows)


@torch.no_grad()
def advantage_weights(frozen: Frozen, data: DeviceData, settings: WeightSettings, seeds: int) -> Tensor:
    """Clipped exponential advantages of all logged actions, [S, N]."""
    assert frozen.critic is not None
    parts = []
    for steps in torch.arange(len(data.actions), device=data.actions.device).split(CHUNK):
        observations, actions = (rows.expand(seeds, -1, -1) for rows in data.at(steps))
        parts.append(frozen.critic.q(observations, actions) - frozen.critic.v(observations))
    return torch.exp(settings.inverse_temperature * torch.cat(parts, dim=1)).clamp(max=settings.largest_weight)
