r"""Value-gradient extraction (DDPG + BC, a comparator): climb the frozen critic, stay near the logged actions.

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \Big[ -\lambda \, Q_c\big(s, \pi_\theta(s)\big)
   + \tfrac{1}{A} \lVert \pi_\theta(s) - a \rVert^2 \Big], \qquad
   \lambda = \frac{\alpha}{\tfrac{1}{B} \sum_{(s, a)} |Q_c(s, a)|}

with :math:`\pi_\theta(s) = \mathrm{clip}(a_b + \rho \tanh(\mathrm{MLP}_\theta(s, a_b)))` for ``space: residual``, and
:math:`\tanh(\mathrm{MLP}_\theta(s))`, without the anchor, for ``space: action``. :math:`\lambda` is a number of the
minibatch and the seed; no gradient passes through it, nor into the critic's parameters. No gradient passes where the
clip acts, so a residual that has left the action box is neither pulled back nor pushed further at that state.

Source: TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860, eq. 5, with its :math:`\alpha` = 2.5). Deviations: the critic is
frozen and saw no actions of this policy (one-step extraction), it is the conservative :math:`Q_c` in place of the first
of two networks, and :math:`|Q_c|` is that of the logged actions, as in the paper's text (its code takes the policy's).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.calibration import values_at
from spar_core.improvement.actors import Inputs, OwnActor, ResidualActor, correction_norm
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.split import Probe, Split, mean_by_state
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import minimise
from spar_core.training.networks import per_seed_mean
from spar_core.training.optimiser import DecayingSettings
from spar_core.training.randomness import Minibatches

# Smallest mean |Q_c| that lambda divides by, in scaled return units.
SMALLEST_VALUE = 1e-6
CURVES = ("improvement/loss", "improvement/q", "improvement/bc_loss")


class ValueGradientSettings(DecayingSettings):
    steps: int = Field(5000, gt=0, description="optimiser steps")
    inputs: Inputs = Field("state_and_anchor", description="what a residual's network sees; a policy of its own sees s")
    space: Literal["residual", "action"] = Field(
        "residual", description="residual on the anchor, or a policy of its own"
    )
    q_weight: float = Field(2.5, ge=0, description="alpha: weight of the value, in units of its mean size")


def value_gradient_loss(
    chosen: Tensor, q: Tensor, actions: Tensor, logged_q: Tensor, q_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-lambda Q_c plus the squared error of ``chosen`` to ``actions`` [S, B, A]; ``q`` and ``logged_q`` are [S, B]."""
    scale = q_weight / per_seed_mean(logged_q.abs()).clamp_min(SMALLEST_VALUE).detach()
    value, error = per_seed_mean(q), per_seed_mean((chosen - actions).square())
    loss = error - scale * value
    info = dict(zip(CURVES, (loss.detach(), value.detach(), error.detach()), strict=True))
    return loss.sum(), info


class ValueGradient(Improvement):
    """A residual on the anchor, or a policy of its own, that follows the critic's gradient."""

    Settings = ValueGradientSettings
    takes_value_gradient = True

    def __init__(self, frozen: Frozen, settings: ValueGradientSettings, actor: ResidualActor) -> None:
        super().__init__(frozen, settings)
        self.actor, self.network = actor, actor.network

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: ValueGradientSettings) -> Fitted:
        data, rows, n = context.data, context.rows, len(context.seeds)
        actor = form(settings).at_step_zero(context, frozen, settings)
        base, logged_q = frozen.anchor.act_on_data(data, n), logged_values(context, frozen)

        def loss(picked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            observations, actions = data.at(picked)
            chosen = actor.action(observations, base[rows, picked])
            q = frozen.values.conservative_q(observations, chosen)
            return value_gradient_loss(chosen, q, actions, logged_q[rows, picked], settings.q_weight)

        train, purpose = context.dataset.train_steps, "improvement/batches/0"
        draws = {"batches": Minibatches(train, context.seeds, settings.batch_size, purpose, context.device)}
        minimise(loss, context, settings.adam(actor.network), draws, name="improvement", steps=settings.steps)
        metrics = {name: context.report.last(name) for name in CURVES}
        metrics["improvement/correction_norm"] = correction_norm(actor, context, base)
        return Fitted(actor.network.state("network", n), metrics, context.report.rows)

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: ValueGradientSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Self:
        return cls(frozen, settings, form(settings).restore(frozen, settings, tensors, device))

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.actor.correction(observations, base)

    @classmethod
    def follows_critic(cls, settings: Any) -> bool:
        return True

    def critic_term(self, probe: Probe, step: int) -> Tensor:
        """-lambda Q_c at the policy's actions."""
        critic = self.frozen.values
        size = critic.q(probe.observations, probe.actions.unsqueeze(0)).abs().mean().clamp_min(SMALLEST_VALUE)
        chosen = self.actor.action(probe.observations, probe.base)
        weight: float = self.settings.q_weight
        return -(weight / size) * critic.conservative_q(probe.observations, chosen).mean()

    @classmethod
    def split(cls, context: Context, frozen: Frozen, settings: ValueGradientSettings) -> Split:
        data, n, critic = context.data, len(context.seeds), frozen.values
        rule = cls(frozen, settings, form(settings).at_step_zero(context, frozen, settings))
        observations, actions = data.at(torch.arange(len(data.actions)).expand(n, -1))
        base, logged_q = frozen.anchor.act_on_data(data, n), logged_values(context, frozen)

        def loss(weight: float) -> Tensor:
            chosen = rule.actor.action(observations, base)
            return value_gradient_loss(chosen, critic.conservative_q(observations, chosen), actions, logged_q, weight)[
                0
            ]

        # Where Q is linear the loss is quadratic in the action: its minimiser is the data's mean plus A lambda / 2 grad
        # Q.
        at = actions.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic.conservative_q(observations, at).sum(), at)
        scale = torch.stack([settings.q_weight / row.abs().mean() for row in logged_q]).view(-1, 1, 1)
        fitted = mean_by_state(observations, actions - base)
        wanted = (fitted, fitted + 0.5 * actions.shape[-1] * scale * slope)
        return Split(rule, lambda: loss(settings.q_weight), lambda: loss(0.0), wanted, observations)


def logged_values(context: Context, frozen: Frozen) -> Tensor:
    """Q_c of all logged actions, [S, N]."""
    steps = torch.arange(len(context.data.actions), device=context.device)
    return values_at(frozen.values, context, steps)


def form(settings: ValueGradientSettings) -> type[ResidualActor]:
    """The kind of network that a space asks for."""
    return OwnActor if settings.space == "action" else ResidualActor
