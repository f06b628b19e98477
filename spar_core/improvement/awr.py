r"""Advantage-weighted regression on the data's own actions (comparators): a residual on the anchor, or from scratch.

.. math:: \text{awr:} \quad \min_\theta \; \mathbb{E}_{(s, a)} \; w(s, a)
   \Big\lVert \frac{\Delta_\theta(s, a_b) - (a - a_b)}{\rho} \Big\rVert^2, \qquad
   \text{awr\_scratch:} \quad \min_\theta \; \mathbb{E}_{(s, a)} \; w(s, a) \lVert \pi_\theta(s) - a \rVert^2, \qquad
   w(s, a) = \min\big(e^{\beta (Q_c(s, a) - V(s))}, w_{\max}\big)

``awr`` trains the network of SPAR-MLP, with targets clipped to the radius :math:`\rho`, so that SPAR and AWR differ
only in what they imitate. ``awr_scratch`` trains a policy without anchor and radius; with :math:`\beta = 0` it is plain
behaviour cloning. Its difference from ``awr`` is what the anchor and its radius are worth.

Source: the policy extraction of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eq. 7), after AWR (Peng et al. 2019).
Deviation: squared error in place of a Gaussian likelihood.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from spar_core.improvement.actors import Inputs, OwnActor, ResidualActor, correction_norm
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.split import Probe, Split, mean_by_state
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import minimise
from spar_core.training.networks import CHUNK, per_seed_mean
from spar_core.training.optimiser import DecayingSettings
from spar_core.training.randomness import Minibatches


class AWRFromScratchSettings(DecayingSettings):
    """Settings of every regression that advantages weigh."""

    steps: int = Field(5000, gt=0, description="optimiser steps")
    inverse_temperature: float = Field(3.0, ge=0, description="beta: factor of the scaled advantage in the exponent")
    largest_weight: float = Field(100.0, gt=0, description="weights are clipped at this value")


class AWRSettings(AWRFromScratchSettings):
    """Settings of the residual on the anchor."""

    inputs: Inputs = Field("state_and_anchor", description="what the network sees: state_and_anchor, or state alone")


def weighted_loss(predicted: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted squared error of ``predicted`` [S, B, A], with weights [S, B], summed over seeds."""
    error = per_seed_mean(weights.unsqueeze(-1) * (predicted - targets).square())
    return error.sum(), {"improvement/loss": error.detach(), "improvement/weight_mean": per_seed_mean(weights)}


class AWR(ResidualActor, Improvement):
    """The network of SPAR-MLP, fitted to the data's residuals instead of to candidates."""

    Settings: ClassVar[type[AWRFromScratchSettings]] = AWRSettings

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: AWRFromScratchSettings) -> Fitted:
        data, rows, n = context.data, context.rows, len(context.seeds)
        rule = cls.at_step_zero(context, frozen, settings)
        weights = advantage_weights(context, frozen, settings)
        base = frozen.anchor.act_on_data(data, n)
        targets = rule.targets(data.actions, base)

        def loss(picked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            predicted = rule.bounded(data.observations[data.index[picked]], base[rows, picked])
            return weighted_loss(predicted, targets[rows, picked], weights[rows, picked])

        train, purpose = context.dataset.train_steps, "improvement/batches/0"
        draws = {"batches": Minibatches(train, context.seeds, settings.batch_size, purpose, context.device)}
        minimise(loss, context, settings.adam(rule.network), draws, name="improvement", steps=settings.steps)
        clipped = [(row >= settings.largest_weight).float().mean().item() for row in weights]
        metrics = {
            "improvement/loss": context.report.last("improvement/loss"),
            "improvement/correction_norm": correction_norm(rule, context, base),
            "improvement/weight_mean": [row.mean().item() for row in weights],
            "improvement/weight_clipped_share": clipped,
        }
        return Fitted(rule.network.state("network", n), metrics, context.report.rows)

    @classmethod
    def follows_critic(cls, settings: Any) -> bool:
        return True

    def critic_term(self, probe: Probe, step: int) -> Tensor:
        """The loss with each weight less the mean weight."""
        critic = self.frozen.values
        with torch.no_grad():
            advantages = critic.q(probe.observations, probe.actions.unsqueeze(0)) - critic.v(probe.observations)
            weights = exponential_weights(advantages, self.settings)
            targets = self.targets(probe.actions, probe.base)
        error = (self.bounded(probe.observations, probe.base) - targets).square()
        return ((weights - weights.mean()).unsqueeze(-1) * error).mean()

    @classmethod
    def split(cls, context: Context, frozen: Frozen, settings: Any) -> Split:
        rule, data, n = cls.at_step_zero(context, frozen, settings), context.data, len(context.seeds)
        observations, actions = data.at(torch.arange(len(data.actions)).expand(n, -1))
        base = frozen.anchor.act_on_data(data, n)
        weights = advantage_weights(context, frozen, settings)
        same = per_seed_mean(weights).unsqueeze(1).expand_as(weights)
        targets, away = rule.targets(data.actions, base), actions - base

        def loss(each: Tensor) -> Tensor:
            return weighted_loss(rule.bounded(observations, base), targets, each)[0]

        wanted = (mean_by_state(observations, away), mean_by_state(observations, away, weights))
        return Split(rule, lambda: loss(weights), lambda: loss(same), wanted, observations)


class AWRFromScratch(OwnActor, AWR):
    """The weights and the regression of AWR, with a policy of its own."""

    Settings = AWRFromScratchSettings


def exponential_weights(advantages: Tensor, settings: AWRFromScratchSettings) -> Tensor:
    """Clipped exponentials of scaled advantages."""
    return torch.exp(settings.inverse_temperature * advantages).clamp(max=settings.largest_weight)


@torch.no_grad()
def advantage_weights(context: Context, frozen: Frozen, settings: AWRFromScratchSettings) -> Tensor:
    """Weights of all logged actions, [S, N]."""
    data, critic, parts = context.data, frozen.values, []
    for steps in torch.arange(len(data.actions), device=data.actions.device).split(CHUNK):
        observations, actions = (rows.expand(len(context.seeds), -1, -1) for rows in data.at(steps))
        parts.append(critic.q(observations, actions) - critic.v(observations))
    return exponential_weights(torch.cat(parts, dim=1), settings)
