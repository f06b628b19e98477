r"""Advantage-weighted regression on the data's own actions, as a residual on the anchor (a comparator).

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \; \min\big(e^{\beta (Q_c(s, a) - V(s))}, w_{\max}\big)
   \Big\lVert \frac{\Delta_\theta(s, a_b) - (a - a_b)}{\rho} \Big\rVert^2

Source: the policy extraction of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eq. 7), after AWR (Peng et al.
2019). Deviations: squared error in place of a likelihood, the correction's box (targets clipped inside it),
and the anchor below it, so that SPAR and AWR differ in what they imitate only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.calibration import values_at
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.fitted import Fitted
from spar_core.improvement.base import Frozen
from spar_core.improvement.spar_mlp import SparMLP
from spar_core.networks import CHUNK, Adam, per_seed_mean
from spar_core.randomness import Minibatches
from spar_core.reporter import Reporter, is_curve_point
from spar_core.settings import Settings


class AWRSettings(Settings):
    steps: PositiveInt = 5000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(1e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 256)
    inverse_temperature: float = Field(3.0, ge=0)
    largest_weight: float = Field(100.0, gt=0)


def weighted_loss(predicted: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted squared error of [S, B, A], weights [S, B]."""
    error = per_seed_mean(weights.unsqueeze(-1) * (predicted - targets).square())
    return error.sum(), {"improvement/loss": error.detach(), "improvement/weight_mean": per_seed_mean(weights)}


class AWR(SparMLP):
    """The network of SPAR-MLP, fitted to the data's residuals instead of to candidates."""

    Settings = AWRSettings

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        frozen: Frozen,
        settings: AWRSettings,
        seeds: Sequence[int],
        report: Reporter,
        device: str,
    ) -> Fitted:
        rule = cls.at_step_zero(dataset, frozen, settings, seeds, device)
        data = DeviceData.of(dataset, device)
        weights = advantage_weights(frozen, data, settings, len(seeds))
        base = frozen.anchor.act_on_all(data.observations[data.index], len(seeds))
        radius = frozen.residual.radius.unsqueeze(1)
        targets = ((data.actions - base) / radius).clamp(-1.0, 1.0)
        adam = Adam(settings.learning_rate, rule.network, decay_steps=settings.steps if settings.cosine_decay else None)
        batches = Minibatches(dataset.train_steps, seeds, settings.batch_size, "improvement/batches/0")
        rows = torch.arange(len(seeds), device=device).unsqueeze(1)
        for step in range(1, settings.steps + 1):
            picked = batches.next().to(device)
            predicted = rule.bounded(data.observations[data.index[picked]], base[rows, picked])
            loss, info = weighted_loss(predicted, targets[rows, picked], weights[rows, picked])
            adam.minimise(loss)
            if is_curve_point(step, settings.steps):
                report.log(step, info)
            report.advance(len(seeds))
        metrics = {
            "improvement/loss": info["improvement/loss"].tolist(),
            "improvement/weight_mean": [row.mean().item() for row in weights],
            "improvement/weight_clipped_share": [
                (row >= settings.largest_weight).float().mean().item() for row in weights
            ],
        }
        return Fitted(rule.network.state("network", len(seeds)), metrics, report.rows)


@torch.no_grad()
def advantage_weights(frozen: Frozen, data: DeviceData, settings: AWRSettings, seeds: int) -> Tensor:
    """Clipped exponential advantages of all logged actions, [S, N]."""
    assert frozen.critic is not None
    steps = torch.arange(len(data.actions), device=data.actions.device)
    q = values_at(frozen.critic, data, steps, seeds)
    v = torch.cat(
        [frozen.critic.v(chunk.expand(seeds, -1, -1)) for chunk in data.observations[data.index].split(CHUNK)],
        dim=1,
    )
    return torch.exp(settings.inverse_temperature * (q - v)).clamp(max=settings.largest_weight)
